"""Intervals cover what they claim, whatever the noise looks like; evenness is judged as tables say."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uproxy.bench.stats import (
    chi_squared_p,
    interval_of,
    interval_of_differences,
    interval_of_ratios,
    median,
    noise_warnings,
    spread,
)

_FIGURES = st.floats(min_value=1e-3, max_value=1e9)
_ROUNDS = st.lists(st.tuples(_FIGURES, _FIGURES), min_size=2, max_size=30)


def _tangent(rng: random.Random) -> float:
    return math.tan(math.pi * (rng.random() - 0.5))


NOISE = {
    "normal": (lambda rng: rng.gauss(0, 1), 0.0),
    "log-normal": (lambda rng: rng.lognormvariate(0, 1), 1.0),
    "exponential": (lambda rng: rng.expovariate(1), math.log(2)),
    "cauchy": (_tangent, 0.0),
}


def test_median_of_an_even_number_is_between_the_middle_two():
    assert median([4.0, 1.0, 3.0, 2.0]) == 2.5


def test_there_is_no_median_of_nothing():
    with pytest.raises(ValueError, match="no median"):
        median([])


def test_one_round_has_no_interval():
    assert interval_of([5.0]) is None
    assert interval_of_ratios([5.0], [4.0]) is None


@pytest.mark.parametrize("rounds", [6, 7, 9, 11, 15])
@pytest.mark.parametrize("noise", NOISE)
def test_from_six_rounds_on_an_interval_covers_the_median_whatever_the_noise(noise, rounds):
    assert _coverage(noise, rounds) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("rounds", [2, 3, 4, 5])
@pytest.mark.parametrize(("noise", "least"), [("normal", 0.935), ("log-normal", 0.92), ("cauchy", 0.95)])
def test_few_rounds_are_made_up_for_by_width(noise, least, rounds):
    assert _coverage(noise, rounds) >= least


def _coverage(noise: str, rounds: int, runs: int = 3_000) -> float:
    rng = random.Random(f"{noise} {rounds}")
    draw, truth = NOISE[noise]
    intervals = (interval_of([draw(rng) for _ in range(rounds)]) for _ in range(runs))
    return sum(one.low <= truth <= one.high for one in intervals) / runs


def test_the_t_interval_is_that_of_the_tables():
    found = interval_of([10.0, 12.0, 14.0])  # mean 12, s 2: 4.303 * 2 / sqrt 3 is 4.969
    assert (found.median, found.low, found.high) == pytest.approx((12, 7.031, 16.969), abs=0.001)


@pytest.mark.parametrize(
    ("count", "low"),
    [
        # Between the 1st (96.88 %) and the 2nd (78.13 %): lambda 5 * 0.1 / (1 + 4 * 0.1).
        (6, 1 + 0.5 / 1.4),
        # Between the 2nd (98.83 %) and the 3rd (93.46 %): lambda 9 * 0.7127 / (2 + 7 * 0.7127).
        (11, 2.9178),
    ],
)
def test_a_sign_interval_is_interpolated_as_hettmansperger_and_sheather_do(count, low):
    found = interval_of([float(value) for value in range(1, count + 1)])
    assert found.low == pytest.approx(low, abs=1e-4)
    assert found.low + found.high == pytest.approx(count + 1)


def test_one_disturbed_round_does_not_widen_a_sign_interval_to_it():
    found = interval_of([10.0, 10.1, 10.2, 10.3, 10.4, 10.5, 10.6, 10.7, 900.0])
    assert found.high < 10.8


@given(_ROUNDS)
def test_an_interval_holds_its_median(rounds):
    for interval in (interval_of_ratios, interval_of_differences):
        found = interval([value for value, _ in rounds], [base for _, base in rounds])
        slack = 1e-9 * max(abs(found.low), abs(found.high), 1e-300)
        assert found.low - slack <= found.median <= found.high + slack


@given(_ROUNDS)
def test_the_inverse_ratio_has_the_inverse_interval(rounds):
    ours, theirs = [value for value, _ in rounds], [base for _, base in rounds]
    there, back = interval_of_ratios(ours, theirs), interval_of_ratios(theirs, ours)
    assert math.log(there.low) == pytest.approx(-math.log(back.high), abs=1e-6)
    assert math.log(there.median) == pytest.approx(-math.log(back.median), abs=1e-6)


@given(_ROUNDS, st.floats(min_value=-1e6, max_value=1e6))
def test_a_common_drift_of_the_rounds_cancels_out(rounds, drift):
    ours, theirs = [value for value, _ in rounds], [base for _, base in rounds]
    plain = interval_of_differences(ours, theirs)
    drifted = interval_of_differences([v + drift for v in ours], [v + drift for v in theirs])
    assert drifted.median == pytest.approx(plain.median, abs=1e-6 * max(1, abs(drift), *ours, *theirs))


def test_ratios_are_of_the_same_round_not_of_the_medians():
    # Every round does half of direct while the machine's speed changes tenfold between rounds.
    direct = [10.0, 100.0, 20.0, 50.0, 90.0, 70.0]
    found = interval_of_ratios([value / 2 for value in direct], direct)
    assert (found.low, found.median, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_a_round_that_did_nothing_has_no_ratio():
    assert interval_of_ratios([0.0, 1.0], [1.0, 1.0]) is None
    assert interval_of_ratios([1.0, 1.0], [1.0, 0.0]) is None


def test_rounds_that_do_not_pair_are_a_mistake():
    with pytest.raises(ValueError, match="shorter"):
        interval_of_differences([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("chi_squared", "freedom", "p"),
    [
        # The 5 %, 1 % and 99 % points of the usual tables.
        (3.841, 1, 0.05),
        (5.991, 2, 0.05),
        (7.815, 3, 0.05),
        (18.307, 10, 0.05),
        (6.635, 1, 0.01),
        (135.807, 100, 0.01),
        (70.065, 100, 0.99),
        (0.0, 5, 1.0),
        (3.0, 0, 1.0),
    ],
)
def test_the_chi_squared_distribution_is_that_of_the_tables(chi_squared, freedom, p):
    assert chi_squared_p(chi_squared, freedom) == pytest.approx(p, rel=2e-3)


@given(st.floats(min_value=0, max_value=1e6), st.integers(min_value=1, max_value=300))
def test_a_probability_stays_one(chi_squared, freedom):
    assert 0 <= chi_squared_p(chi_squared, freedom) <= 1


def test_an_even_spread_is_even():
    found = spread({"a": 100, "b": 100, "c": 100})
    assert (found.max_over_mean, found.chi_squared_p) == (1.0, 1.0)


def test_an_uneven_spread_is_improbable():
    found = spread({"a": 130, "b": 100, "c": 70})  # chi-squared 18 with 2 degrees: e^-9
    assert found.max_over_mean == pytest.approx(1.3)
    assert found.chi_squared_p == pytest.approx(math.exp(-9))


def test_an_endpoint_left_out_counts():
    assert spread({"a": 50, "b": 50, "c": 0}).max_over_mean == pytest.approx(1.5)


@pytest.mark.parametrize("counts", [{}, {"a": 0, "b": 0}, {"a": 7}])
def test_where_there_was_no_choice_nothing_is_uneven(counts):
    found = spread(counts)
    assert (found.max_over_mean, found.chi_squared_p) == (1.0, 1.0)


def test_random_choice_is_seldom_called_uneven():
    rng = random.Random(8)
    runs = 400
    chosen = [[rng.randrange(4) for _ in range(200)] for _ in range(runs)]
    counts = [{str(n): one.count(n) for n in range(4)} for one in chosen]
    assert sum(spread(one).chi_squared_p < 0.05 for one in counts) / runs == pytest.approx(0.05, abs=0.03)


def test_quiet_rounds_raise_no_warning():
    assert noise_warnings([100.0, 103.0, 98.0, 101.0]) == []
    assert noise_warnings([100.0]) == []
    assert noise_warnings([0.0, 0.0]) == []


def test_one_bad_round_among_many_is_no_reason_to_warn():
    assert noise_warnings([100.0, 101.0, 99.0, 20.0, 100.0]) == []


def test_rounds_that_are_all_over_the_place_are_told():
    (warning,) = noise_warnings([100.0, 60.0, 150.0, 80.0, 125.0])
    assert warning.startswith("noisy machine: a typical round is 25% off the median (60 to 150 per second)")
