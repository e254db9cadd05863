"""The files of a report: complete, self-contained, honest about what is missing, and hard to break."""

import re
from xml.etree import ElementTree

import msgspec
import pytest

from tests.pure.bench.results_factory import measurement, results, run_of
from uproxy.bench.compare import read_results
from uproxy.bench.latency import Latencies
from uproxy.bench.page.axes import Linear, Logarithmic, apart
from uproxy.bench.page.document import document
from uproxy.bench.page.palette import looks
from uproxy.bench.report import write_report
from uproxy.bench.results import Interval, ProcessCost
from uproxy.bench.stats import spread
from uproxy.bench.summary import summary
from uproxy.errors import UproxyError

EVIL = "<script>alert(\"1\")</script> & 'x' | `y` *z*"
PATHS = ("direct", "uproxy-bind", "kernel-dnat")


@pytest.fixture(scope="module")
def run():
    return results(paths=PATHS)


@pytest.fixture(scope="module")
def page(run):
    return document(run)


def parsed(page: str) -> ElementTree.Element:
    """The whole page is well-formed XML, SVG included, or this raises."""
    return ElementTree.fromstring(page.removeprefix("<!doctype html>\n"))


def section(page: str, name: str) -> ElementTree.Element:
    return parsed(page).find(f".//section[@id='{name}']")


def text(element: ElementTree.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def curves(element: ElementTree.Element) -> dict[str, str]:
    """Path data of the lines in a latency chart, by path."""
    found = {}
    for series in element.iterfind(".//g[@data-path]"):
        for line in series.iterfind("path[@class='curve']"):
            found[series.get("data-path")] = line.get("d")
    return found


def test_every_file_is_written_and_the_page_is_named_first(run, tmp_path):
    written = write_report(run, tmp_path / "new" / "report")
    names = [path.name for path in written]
    assert names[:3] == ["report.html", "results.json", "summary.md"]
    assert set(names[3:]) == {
        f"{workload}.{path}.hgrm" for workload in ("rr-1x64B", "rr-64x64B", "crr-32") for path in PATHS
    }
    assert all(path.stat().st_size for path in written)


def test_results_come_back_as_they_were(run, tmp_path):
    write_report(run, tmp_path)
    assert read_results(tmp_path / "results.json") == run
    assert (tmp_path / "results.json").read_text().startswith('{\n  "format": 1,')


def test_a_directory_that_cannot_be_made_is_one_clear_line(run, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(UproxyError, match="the report cannot be written"):
        write_report(run, tmp_path / "taken" / "report")


def test_names_of_targets_become_safe_names_of_files(run, tmp_path):
    histogram = run.measurements[0].histogram
    odd = [measurement(name, histogram=histogram) for name in ("../../etc/x", "a b", "a/b", "A_b")]
    written = write_report(run_of(odd), tmp_path)[3:]
    assert [path.name for path in written] == [
        "rr-64x64B..._.._etc_x.hgrm",
        "rr-64x64B.a_b.hgrm",
        "rr-64x64B.a_b-2.hgrm",
        "rr-64x64B.A_b-3.hgrm",
    ]
    assert {path.parent for path in written} == {tmp_path}


def test_an_hgrm_file_is_what_the_plotter_takes(run, tmp_path):
    write_report(run, tmp_path)
    lines = (tmp_path / "rr-1x64B.direct.hgrm").read_text().splitlines()
    assert lines[0].split() == ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]
    rows = [line.split() for line in lines[2:] if not line.startswith("#")]
    values, levels, counts = ([float(row[column]) for row in rows] for column in range(3))
    assert (values, levels, counts) == (sorted(values), sorted(levels), sorted(counts))
    assert (levels[-1], counts[-1]) == (1.0, Latencies.decode(run.measurements[0].histogram).count)
    assert values[-1] == pytest.approx(run.measurements[0].corrected.max_us, rel=1e-3)


def test_the_page_asks_the_network_for_nothing(page):
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<iframe|<object|<embed", page)
    assert [element.get("href") for element in parsed(page).iter("link")] == ["data:,"]
    assert not any(element.get("src") for element in parsed(page).iter())
    assert all(element.get("href").startswith("#") for element in parsed(page).iter("a"))
    policy = parsed(page).find(".//meta[@http-equiv='Content-Security-Policy']")
    assert policy.get("content").startswith("default-src 'none';")


def test_every_measurement_with_a_histogram_has_its_curve(run, page):
    for workload in ("rr-1x64B", "rr-64x64B", "crr-32"):
        drawn = curves(section(page, workload))
        assert set(drawn) == set(PATHS)
        assert all(data.count("L") > 20 for data in drawn.values())
    assert curves(section(page, "stream-down-8")) == {}


def test_a_curve_rises_to_the_right_and_shows_the_percentiles(run, page):
    data = curves(section(page, "rr-1x64B"))["direct"]
    points = [tuple(map(float, pair.split())) for pair in data.removeprefix("M").split("L")]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert [y for _, y in points] == sorted((y for _, y in points), reverse=True)
    titles = [text(one) for one in section(page, "rr-1x64B").iter("title")]
    p99 = next(title for title in titles if title.startswith("direct p99:"))
    assert p99 == f"direct p99: {run.measurements[0].p99_us:.0f} µs"


def test_a_line_ends_where_too_few_waits_are_left():
    few = Latencies()
    few.record(1_000_000, 900)
    few.record(2_000_000, 100)
    chart = section(document(run_of([measurement(histogram=few.encode())])), "rr-64x64B")
    # Of 1,000 waits ten are beyond p99 and one beyond p99.9: the axis ends at p99, and so does the line.
    assert [tick.text for tick in chart.iterfind(".//text[@class='tick']")][-3:] == ["50%", "90%", "99%"]
    assert curves(chart)["uproxy-bind"].rpartition("L")[2].split()[0] == "338.0"


def test_every_path_has_one_look_in_all_charts(page):
    by_path: dict[str, set[str]] = {}
    for series in parsed(page).iterfind(".//g[@data-path]"):
        by_path.setdefault(series.get("data-path"), set()).add(series.get("class"))
    assert by_path == {
        "direct": {"series c0"},
        "uproxy-bind": {"series c1"},
        "kernel-dnat": {"series c6"},
    }


def test_bars_have_whiskers_and_a_ratio(page):
    shown = text(section(page, "rr-64x64B"))
    assert "Throughput, as times direct" in shown
    whiskers = section(page, "rr-64x64B").findall(".//path[@class='whisker']")
    assert len(whiskers) == len(PATHS) - 1


def test_cpu_is_stacked_by_program_and_mode(page):
    bars = [bar.get("class") for bar in section(page, "rr-64x64B").iter("rect")]
    for role in ("proxy", "server", "client"):
        for mode in ("user", "kernel"):
            assert f"bar {role} {mode}" in bars


def test_the_verdict_says_what_the_intervals_allow(page):
    verdict = text(parsed(page).find(".//section[@class='verdict']"))
    assert re.search(r"uproxy-bind adds 1\d\d µs to a typical request; handles 0\.4\dx the requests", verdict)
    assert "kernel-dnat" in verdict


def verdict_of(*measurements):
    page = document(run_of([measurement("direct"), *measurements]))
    return text(parsed(page).find(".//section[@class='verdict']"))


def test_a_difference_that_could_be_none_is_not_claimed():
    said = verdict_of(
        measurement("a", p50_us_over_direct=Interval(2, -1, 5), ops_ratio_to_direct=Interval(0.99, 0.9, 1.1))
    )
    assert "a adds no latency that this run could tell from none, 5.00 µs at most" in said
    assert "0.99x the requests (0.90 to 1.10x: no difference shown)" in said


def test_a_path_that_saves_time_is_said_to():
    assert "a takes 4.00 µs off" in verdict_of(measurement("a", p50_us_over_direct=Interval(-4, -5, -3)))


def test_paths_whose_intervals_meet_are_not_ranked():
    def at(name, low, high):
        return measurement(name, ops_ratio_to_direct=Interval((low + high) / 2, low, high))

    assert "per second: b." in verdict_of(at("a", 0.4, 0.5), at("b", 0.6, 0.7))
    assert "per second: a and b, too close to tell apart." in verdict_of(at("a", 0.4, 0.6), at("b", 0.5, 0.7))
    assert "per second: no clear leader." in verdict_of(*(at(name, 0.4, 0.6) for name in "abcd"))


def test_a_measurement_with_errors_is_not_judged():
    said = verdict_of(measurement("a", ops_ratio_to_direct=Interval(2.0, 1.9, 2.1), errors=5))
    assert "2.00x" not in said
    assert "Not judged because of errors: rr-64x64B." in said


def test_warnings_stand_beside_what_they_concern():
    warned = [measurement(name, warnings=["a noisy machine"]) for name in ("a", "b")]
    page = document(run_of([*warned, measurement("c", workload="crr-32")], warnings=["no root"]))
    assert text(section(page, "rr-64x64B").find("ul[@class='warnings']")) == "a, b: a noisy machine"
    assert section(page, "crr-32").find("ul[@class='warnings']") is None
    assert text(parsed(page).find("body/ul[@class='warnings']")) == "no root"
    assert "a, b: a noisy machine" in summary(run_of(warned))


def test_an_interrupted_run_says_so_first(run):
    broken = msgspec.structs.replace(run, complete=False)
    assert "interrupted" in text(parsed(document(broken)).find("body/ul[@class='warnings']"))
    assert summary(broken).startswith("**This run was interrupted")
    assert parsed(document(run)).find("body/ul[@class='warnings']") is None
    assert "interrupted" not in summary(run)


def test_a_run_without_measurements_is_a_page_all_the_same(tmp_path):
    empty = run_of([], complete=False)
    assert "Nothing was measured." in text(parsed(document(empty)))
    assert [path.name for path in write_report(empty, tmp_path)] == [
        "report.html",
        "results.json",
        "summary.md",
    ]


@pytest.mark.parametrize(
    "one",
    [
        measurement(),
        measurement(ops_per_s=0.0, ops_per_s_by_round=[0.0, 0.0, 0.0], rounds=0),
        measurement(histogram=Latencies().encode()),
        measurement(costs=[ProcessCost("uproxy", 0.0, 0.0)]),
        measurement(ops_ratio_to_direct=Interval(0.5, 1e-9, 1e9)),
        measurement(p50_us_over_direct=Interval(0.0, 0.0, 0.0), p50_us=0.0),
        measurement(workload="stream-down-8", costs=[ProcessCost("uproxy", 0.0, 0.0, 0.0)], cpu_s_per_gb=0.0),
        measurement(workload="idle-1000", rss_bytes_per_connection=-12.0, kernel_bytes_per_connection=0.0),
        measurement(workload="churn-10", live_after_ms=0.0, longest_stall_ms=0.0),
        measurement(workload="spread-32", spread=spread({})),
        measurement(workload="spread-32", spread=spread({"a": 0})),
        measurement(workload="something-from-the-future"),
    ],
    ids=lambda one: one.workload,
)
def test_partial_and_degenerate_measurements_are_drawn(one, tmp_path):
    alone, beside = run_of([one]), run_of([measurement("direct", workload=one.workload), one])
    for run in (alone, beside):
        parsed(document(run))
        assert one.path in summary(run)
    write_report(beside, tmp_path)


def test_one_wait_is_drawn():
    single = Latencies()
    single.record(1_000)
    parsed(document(run_of([measurement(histogram=single.encode())])))


def test_what_others_wrote_is_escaped_everywhere():
    named = measurement(
        EVIL,
        EVIL,
        warnings=[EVIL],
        errors=1,
        errors_by_kind={EVIL: 1},
        spread=spread({EVIL: 3, "b": 4}),
        costs=[ProcessCost(EVIL, 1.0, 1.0)],
        histogram=results(paths=("direct",), workloads=("rr-1x64B",)).measurements[0].histogram,
    )
    evil = run_of([named], warnings=[EVIL], left_out={EVIL: EVIL}, command=[EVIL], started=EVIL)
    evil = msgspec.structs.replace(evil, machine=msgspec.structs.replace(evil.machine, cpu=EVIL))
    page = document(evil)
    assert [script.text for script in parsed(page).iter("script")] != [None]
    assert len(list(parsed(page).iter("script"))) == 1  # ours
    assert "<script>alert" not in page
    assert "<script>" not in summary(evil)


def test_rows_of_the_summary_stay_rows(run):
    odd = run_of([measurement("a|b\nc", errors=2, errors_by_kind={"x|y": 2})])
    rows = [line for line in summary(odd).splitlines() if line.startswith("|")]
    assert len(rows) == 3
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


def test_the_summary_has_the_machine_and_every_workload(run):
    written = summary(run)
    assert "Measured on: AMD EPYC 7763 64-Core Processor, 8 cores" in written
    assert all(f"(`{name}`)" in written for name in ("rr-1x64B", "rr-64x64B", "crr-32", "stream-down-8"))
    assert written.count("| direct |") == 4


def test_known_paths_look_the_same_whoever_is_beside_them():
    assert looks(["nginx", "uproxy-bind"])["nginx"] == looks(["direct", "haproxy", "nginx"])["nginx"]


def test_many_unknown_paths_all_look_different():
    names = [f"target-{number}" for number in range(16)]
    assert len(set(looks(names).values())) == len(names)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.0, 1.3), (0.0, 4.1e9), (0.0, 1e-4)])
def test_linear_ticks_are_few_and_inside(low, high):
    ticks = Linear(low, high, 0, 100).ticks(4)
    assert 2 <= len(ticks) <= 6
    assert low <= min(ticks) <= max(ticks) <= high * 1.0001


@pytest.mark.parametrize(("low", "high"), [(50.0, 900.0), (1.0, 1e6), (180.0, 190.0)])
def test_logarithmic_ticks_are_few_and_inside(low, high):
    ticks = Logarithmic(low, high, 0, 100).ticks()
    assert 1 <= len(ticks) <= 9
    assert low * 0.99 <= min(ticks) <= max(ticks) <= high * 1.01


def test_labels_keep_their_order_and_their_distance():
    moved = apart([50.0, 51.0, 10.0, 52.0], gap=14, low=0, high=60)
    assert moved == [32.0, 46.0, 10.0, 60.0]
