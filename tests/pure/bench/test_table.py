"""The table on the terminal."""

import msgspec

from tests.pure.bench.results_factory import results
from uproxy.bench.results import Measurement, Spread
from uproxy.bench.table import table


def block(text: str, workload: str) -> list[str]:
    return next(part for part in text.split("\n\n") if part.startswith(f"{workload}:")).splitlines()


def with_measurements(*measurements: Measurement, **fields):
    return msgspec.structs.replace(results(), measurements=list(measurements), **fields)


def measured(path: str, workload: str, **fields) -> Measurement:
    return Measurement(
        path=path, workload=workload, rounds=3, ops_per_s=1000.0, ops_per_s_by_round=[], **fields
    )


def test_no_path_but_direct_has_a_lone_figure():
    text = table(results(paths=("direct", "uproxy-bind")))
    head, direct, uproxy = block(text, "rr-64x64B")[1:4]
    assert head.split()[:4] == ["per", "second", "x", "direct"]
    assert direct.split()[0] == "direct"
    assert "x (" in uproxy.replace("\N{MULTIPLICATION SIGN}", "x")


def test_columns_are_aligned():
    head, *rows = block(table(results(paths=("direct", "haproxy-tuned"))), "stream-down-8")[1:3]
    assert all(len(row) <= len(head) for row in rows)
    assert rows[0].index("/s") + 2 == head.index("per second") + len("per second")


def test_errors_are_shown_with_their_kinds_and_why_not_to_trust():
    failed = measured(
        "haproxy",
        "crr-8",
        errors=3,
        errors_by_kind={"reset": 3},
        warnings=["3 errors (1.00%): not to be compared"],
    )
    lines = block(table(with_measurements(measured("direct", "crr-8"), failed)), "crr-8")
    assert lines[3].endswith("3 (reset 3)")
    assert lines[4] == "  ! haproxy: 3 errors (1.00%): not to be compared"


def test_a_warning_that_paths_share_is_one_line():
    both = [measured(path, "crr-8", warnings=["the same"]) for path in ("direct", "nginx")]
    assert block(table(with_measurements(*both)), "crr-8")[-1] == "  ! direct, nginx: the same"


def test_noise_is_a_sign_beside_the_path_and_words_at_the_end():
    noisy = measured("direct", "crr-8", warnings=["noisy machine: other programs took 40% of a CPU"])
    text = table(with_measurements(noisy, warnings=["noisy machine: 1 of 1 measurements were disturbed"]))
    assert block(text, "crr-8")[2].startswith("  direct ~ ")
    assert "40%" not in text
    assert text.endswith("~ noisy machine: 1 of 1 measurements were disturbed")


def test_a_paced_workload_says_its_rate_and_shows_the_tail():
    paced = measured("direct", "paced-rr-8x64B", rate_per_s=5000.0, p50_us=100.0, p99_us=200.0)
    title, head, _row = block(table(with_measurements(paced)), "paced-rr-8x64B")
    assert title.endswith("5,000 per second")
    assert "per second" not in head
    assert "p99" in head


def test_spread_is_told_in_shares():
    spread = Spread({"pod1": 30, "pod2": 10}, 1.5, 0.01)
    lines = block(table(with_measurements(measured("nginx", "spread-8", spread=spread))), "spread-8")
    assert lines[2].endswith("pod1 75.0% pod2 25.0% (busiest 1.50 x mean)")


def test_what_was_left_out_says_why():
    text = table(with_measurements(measured("direct", "crr-8"), left_out={"nginx": "not installed"}))
    assert text.endswith("left out: nginx: not installed")


def test_nothing_is_wider_than_the_terminal_and_what_is_added_stays():
    text = table(results(), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert all("added p50" in block(text, name)[1] for name in ("rr-1x64B", "rr-64x64B", "crr-32"))
    assert "CPU all" in table(results())


def test_warnings_that_differ_in_their_figures_are_one_line():
    late = [
        measured(path, "crr-8", warnings=[f"sent {share}% late"]) for path, share in (("a", 3), ("b", 12.5))
    ]
    assert block(table(with_measurements(*late)), "crr-8")[-1] == "  ! a, b: sent 3% late"
