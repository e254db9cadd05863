"""Rounds put together: medians, pairs with direct, and what makes them unfit to be trusted."""

import pytest

from tests.pure.bench.samples import sample
from uproxy.bench.assemble import measurement, noise_of_run, spread_measurement, sustained, warnings
from uproxy.bench.workloads import Load, Spread

RR = Load("rr-8x64B", "rr", 8, 64)
STREAM = Load("stream-up-1", "stream-up", 1, 65536)


def test_rates_are_medians_and_latencies_are_of_all_rounds():
    rounds = [sample(per_s, p50_us=p50_us) for per_s, p50_us in ((900, 50), (1000, 60), (5000, 70))]
    found = measurement("direct", RR, rounds, [], None)
    assert found.ops_per_s == 1000
    assert found.ops_per_s_by_round == [900, 1000, 5000]
    assert found.p50_us == pytest.approx(60, rel=0.01)
    assert found.corrected.max_us == pytest.approx(70, rel=0.01)


def test_ratios_are_of_the_same_round_so_that_a_slow_round_cancels_out():
    ours = [sample(500, p50_us=200), sample(50, p50_us=1100), sample(400, p50_us=250)]
    direct = [sample(1000, p50_us=100), sample(100, p50_us=1000), sample(800, p50_us=150)]
    found = measurement("uproxy-bind", RR, ours, direct, "uproxy")
    assert found.ops_ratio_to_direct.median == pytest.approx(0.5)
    assert found.ops_ratio_to_direct.low == pytest.approx(found.ops_ratio_to_direct.high)
    assert found.p50_us_over_direct.median == pytest.approx(100, rel=0.02)


def test_a_round_that_direct_has_not_seen_has_no_pair():
    found = measurement("uproxy-bind", RR, [sample(500)] * 3, [sample(1000)] * 2, "uproxy")
    assert found.rounds == 3
    assert found.ops_ratio_to_direct.median == pytest.approx(0.5)


def test_a_round_in_which_nothing_was_done_does_not_take_the_ratio_away():
    direct = [sample(1000), sample(1000), sample(0), sample(1000)]
    found = measurement("vip", RR, [sample(500), sample(500), sample(500), sample(0)], direct, None)
    assert found.ops_ratio_to_direct is not None
    assert round(found.ops_ratio_to_direct.median, 2) == 0.5
    assert found.warnings[0] == "nothing was done in 1 of 4 rounds, which no ratio or difference counts"


def test_direct_is_not_compared_with_itself():
    found = measurement("direct", RR, [sample()] * 3, [], None)
    assert found.ops_ratio_to_direct is None
    assert found.p50_us_over_direct is None


def test_costs_are_by_program_and_operation():
    found = measurement("haproxy", RR, [sample(1000, proxy_s=0.4)], [], "haproxy")
    by_name = {cost.name: (cost.user_us_per_op, cost.system_us_per_op) for cost in found.costs}
    assert by_name["client"] == pytest.approx((100, 200))
    assert by_name["server"] == pytest.approx((100, 100))
    assert by_name["haproxy"] == pytest.approx((100, 300))
    assert found.cpu_us_per_op == pytest.approx(900)
    assert found.cpu_s_per_gb is None


def test_a_stream_costs_by_the_gigabyte():
    round_of = sample(2_000_000_000, proxy_s=0.5, corrected=None, uncorrected=None)
    found = measurement("uproxy-bind", STREAM, [round_of], [], "uproxy")
    assert found.cpu_s_per_gb == pytest.approx(0.25)
    assert found.cpu_us_per_op is None
    assert found.p50_us is None


def test_good_rounds_have_no_warnings():
    assert warnings([sample(1000, proxy_s=0.9)] * 3, proxied=True) == []


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (sample(900, errors_by_kind={"reset": 100}), "300 errors (10.00% of what was tried)"),
        (sample(900, stuck=100), "300 errors (10.00% of what was tried)"),
        (sample(0), "nothing was done at all"),
        (sample(500, rate=1000), "1,000 per second asked, 500 done"),
        (sample(behind_schedule=0.2), "the generator sent more than 1% of requests over 1 ms late"),
        (
            sample(cpu_share=0.97, proxy_s=0.5),
            "the generator used 97% of its CPU and left the proxy 50% idle",
        ),
        (sample(generator="python"), "the Python generator made the load"),
        (sample(stolen=0.3), "noisy machine: its hypervisor took 30% of a CPU"),
        (sample(others=0.4), "noisy machine: other programs took 40% of a CPU"),
    ],
)
def test_a_bad_run_says_why(bad, words):
    assert any(words in warning for warning in warnings([bad] * 3, proxied=True))


def test_a_generator_at_its_end_is_no_news_where_nothing_else_sets_the_pace():
    assert warnings([sample(cpu_share=1.0)] * 3, proxied=False) == []


def test_rounds_that_differ_much_are_told():
    rounds = [sample(per_s) for per_s in (1000, 2000, 3000, 4000)]
    assert any(
        warning.startswith("noisy machine: a typical round") for warning in warnings(rounds, proxied=False)
    )


def test_a_rate_is_sustained_when_nearly_all_of_it_was_done():
    assert sustained([sample(975, rate=1000)])
    assert not sustained([sample(900, rate=1000)])
    assert sustained([sample(1)])


def test_an_endpoint_that_got_nothing_is_counted():
    rounds = [sample(by_endpoint={"pod1": 10, "pod2": 30}), sample(by_endpoint={"pod2": 20})]
    found = spread_measurement("haproxy", Spread("spread-8", 8), rounds, ("pod1", "pod2", "pod3"))
    assert found.spread.by_endpoint == {"pod1": 10, "pod2": 50, "pod3": 0}
    assert found.spread.max_over_mean == pytest.approx(2.5)


def test_the_run_says_once_how_much_of_it_was_disturbed():
    quiet, noisy = [sample()] * 2, [sample(others=0.5)] * 2
    measured = [measurement("direct", RR, rounds, [], None) for rounds in (quiet, noisy)]
    (line,) = noise_of_run(measured, [*quiet, *noisy])
    assert "1 of 2 measurements were disturbed" in line
    assert noise_of_run(measured[:1], quiet) == []
