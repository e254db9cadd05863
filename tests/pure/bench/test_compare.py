"""What changed beyond noise is told, what got worse fails, what cannot be compared is said to be so."""

import msgspec
import pytest

from tests.pure.bench.results_factory import MACHINE, measurement, results, run_of
from uproxy.bench.compare import compare, read_results
from uproxy.bench.results import Interval
from uproxy.model.faults import BadInput

PATHS = ("direct", "uproxy-bind", "haproxy")


def run(**changes):
    return results(paths=PATHS, workloads=("rr-64x64B",), **changes)


def of(*measurements, **changes):
    return run_of(measurements, **changes)


def on(**changes):
    return {"machine": msgspec.structs.replace(MACHINE, **changes)}


def against_direct(low, median, high, **changes):
    return measurement(ops_ratio_to_direct=Interval(median, low, high), **changes)


def test_the_same_again_is_no_change():
    found = compare(run(seed=1), run(seed=2), 0.05)
    assert not found.regressed
    assert found.lines() == ["3 measurements compared: nothing changed beyond noise"]


def test_a_slower_path_is_a_regression_and_the_others_are_not():
    found = compare(run(), run(seed=2, slower={"uproxy-bind": 1.3}), 0.05)
    assert found.regressed
    assert {change.path for change in found.changes if change.regressed} == {"uproxy-bind"}
    first, *rest = found.lines()
    assert "worse by more than 5%" in first
    assert rest[0].startswith("REGRESSED rr-64x64B uproxy-bind: throughput against direct 0.4")


def test_a_faster_path_is_told_and_passes():
    found = compare(run(), run(seed=2, slower={"uproxy-bind": 0.7}), 0.05)
    assert not found.regressed
    assert any("better" in line for line in found.lines())


def test_worse_within_the_tolerance_passes():
    old, new = of(against_direct(0.49, 0.50, 0.51)), of(against_direct(0.46, 0.47, 0.48))
    assert not compare(old, new, 0.10).regressed
    assert compare(old, new, 0.05).regressed


def test_worse_within_the_noise_passes_however_small_the_tolerance():
    old, new = of(against_direct(0.40, 0.50, 0.60)), of(against_direct(0.35, 0.41, 0.45))
    assert not compare(old, new, 0.0).regressed


def test_on_another_machine_only_ratios_are_compared():
    found = compare(run(), run(seed=2, slower={"uproxy-bind": 1.3}, **on(cpu="another")), 0.05)
    assert {change.text.split(" 0.")[0] for change in found.changes} == {"throughput against direct"}
    assert found.notes[0].startswith("absolute figures, because of another machine: cpu was AMD EPYC")


def test_newer_programs_on_the_same_machine_are_what_is_compared():
    newer = on(versions=MACHINE.versions | {"uproxy": "0.2.0", "commit": "abc"})
    assert compare(run(), run(seed=2, **newer), 0.05).notes == ()


def test_a_baseline_that_changed_is_the_machine_and_no_regression():
    found = compare(run(), run(seed=1, slower=dict.fromkeys(PATHS, 1.5)), 0.05)
    told = [line for line in found.lines() if " direct: throughput " in line]
    assert told
    assert all(line.startswith("changed") and line.endswith("its mood") for line in told)


def test_without_any_ratio_operations_are_compared_by_their_rounds():
    def vip(per_s):
        rounds = [per_s * share for share in (0.98, 0.99, 1.0, 1.0, 1.01, 1.02)]
        return measurement("vip", ops_per_s=per_s, ops_per_s_by_round=rounds)

    assert compare(of(vip(1000.0)), of(vip(700.0)), 0.05).regressed
    assert not compare(of(vip(1000.0)), of(vip(1005.0)), 0.0).regressed


def test_a_change_that_takes_longer_to_follow_is_a_regression():
    def churn(ms):
        rounds = [1000 / (ms * share) for share in (0.98, 0.99, 1.0, 1.0, 1.01, 1.02)]
        return measurement(workload="churn-1000", live_after_ms=ms, ops_per_s_by_round=rounds)

    found = compare(of(churn(20.0)), of(churn(30.0)), 0.05)
    assert found.regressed
    assert "live after 20.0 ms" in found.changes[0].text


def test_errors_where_there_were_none_are_a_regression():
    found = compare(of(measurement()), of(measurement(errors=3)), 0.5)
    assert found.regressed
    assert "3 errors, none before" in found.lines()[1]


def test_errors_in_the_old_run_leave_nothing_to_compare():
    found = compare(of(measurement(errors=3)), of(measurement()), 0.05)
    assert not found.regressed
    assert not found.possible
    assert found.lines() == [
        "nothing could be compared with the older run",
        "not compared: rr-64x64B uproxy-bind: the old run had errors",
    ]


def test_errors_are_expected_where_pods_die():
    old, new = (of(measurement(workload="failover-kill", errors=errors)) for errors in (4, 9))
    found = compare(old, new, 0.05)
    assert not found.regressed
    assert found.unjudged == ("failover-kill uproxy-bind: errors 4.00, now 9.00",)


def test_figures_without_an_interval_are_told_and_not_judged():
    old = of(measurement(workload="idle-1000", rss_bytes_per_connection=1024.0))
    new = of(measurement(workload="idle-1000", rss_bytes_per_connection=2048.0))
    found = compare(old, new, 0.05)
    assert not found.regressed
    assert "RSS/conn 1.00 KiB, now 2.00 KiB" in found.lines()[1]


def test_what_only_one_run_has_is_named():
    old, new = of(measurement("a"), measurement("b")), of(measurement("b"), measurement("c"))
    assert compare(old, new, 0.05).notes == (
        "rr-64x64B a: only in the old run",
        "rr-64x64B c: only in the new run",
    )


def test_another_generator_makes_runs_incomparable():
    found = compare(run(), run(**on(generator="python")), 0.05)
    assert not found.possible
    assert "the native generator made the load, now python" in found.lines()[1]


def test_two_empty_runs():
    assert compare(of(), of(), 0.05).lines() == ["nothing could be compared with the older run"]


def test_results_are_read_as_they_were_written(tmp_path):
    written = run()
    (tmp_path / "old.json").write_bytes(msgspec.json.encode(written))
    assert read_results(tmp_path / "old.json") == written


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file"),
        (b"", "is no results.json"),
        (b"<html>", "is no results.json"),
        (b"[1, 2]", "is no results.json"),
        (b"\xff\xfe{}", "is no results.json"),
        (b'{"format": 99, "other": 1}', "has format 99, and this uproxy reads format 1"),
        (b'{"format": 1}', "missing required field"),
    ],
    ids=["missing", "empty", "not JSON", "other JSON", "not text", "other format", "half"],
)
def test_what_is_no_results_file_is_one_clear_line(tmp_path, content, said):
    path = tmp_path / "old.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        read_results(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
