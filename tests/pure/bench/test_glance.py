"""The first screen's table: who is best at what, held against the baseline, and what is doubtful."""

from tests.pure.bench.results_factory import measurement, results, run_of
from uproxy.bench.glance import glance
from uproxy.bench.results import Interval


def ratio(path: str, times: float, **changes):
    return measurement(path, "rr-64x64B", ops_ratio_to_direct=Interval(times, times, times), **changes)


def cells(run, head: str) -> dict[str, tuple[str, bool, bool]]:
    found = glance(run)
    column = found.heads.index(head)
    return {row.path: tuple(row.cells[column]) for row in found.rows}


def test_the_best_of_each_column_is_marked_and_the_baseline_is_not_among_them():
    run = run_of([measurement("direct"), ratio("a", 0.5), ratio("b", 0.8)])
    assert cells(run, "requests") == {"a": ("0.50x", False, False), "b": ("0.80x", True, False)}


def test_one_alone_is_not_the_best():
    assert cells(run_of([measurement("direct"), ratio("a", 0.5)]), "requests") == {
        "a": ("0.50x", False, False)
    }


def test_doubts_are_marked_and_what_is_spoilt_is_not_shown():
    noisy, failed = ratio("a", 0.5, warnings=["noisy machine"]), ratio("b", 0.9, errors=3)
    run = run_of([measurement("direct"), noisy, failed, ratio("c", 0.4)])
    assert cells(run, "requests") == {
        "a": ("0.50x", True, True),
        "b": ("-", False, False),
        "c": ("0.40x", False, False),
    }


def test_the_first_target_is_the_baseline_whatever_its_name():
    run = run_of([measurement("pod", p99_us=100.0), ratio("vip", 0.5, p99_us=250.0)])
    assert cells(run, "added p99") == {"vip": ("150 µs", False, False)}


def test_every_question_has_its_column_in_a_whole_run():
    assert glance(results()).heads == (
        "added p50",
        "added p99",
        "requests",
        "connects",
        "bytes",
        "CPU/request",
    )


def test_nothing_to_compare_is_no_table():
    assert glance(run_of([measurement("direct")])).rows == ()
    assert glance(run_of([])).rows == ()
