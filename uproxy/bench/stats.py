"""What rounds say together: medians, 95 % confidence intervals, evenness, noise.

Owns every statistical decision of the bench. Pure, and without numpy or scipy: a handful of
rounds needs a handful of lines. Refuses to give an interval where there is none to give.

Rounds are few, and noise on a shared machine is neither normal nor symmetric: a neighbour only
ever makes a round slower. So from six rounds on an interval is that of the sign test, which
assumes nothing of the distribution (two order statistics hold the median with a binomial
probability), interpolated to 95 % as in T. P. Hettmansperger and S. J. Sheather, "Confidence
intervals based on interpolated order statistics", Statistics & Probability Letters 4 (1986)
75-79. Fewer than six values cannot hold their median with 95 % whatever they are: the smallest
and the largest of five do so with 93.75 %. There Student's t stands in, which does assume normal
scatter and makes up for it by being wide. A bootstrap is no way out: of five values, too, it
finds nothing wider than the smallest to the largest.
"""

import math
import statistics
from collections.abc import Mapping, Sequence

from uproxy.bench.results import Interval, Spread

CONFIDENCE = 0.95
_STUDENTS_T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""By number of values: the 97.5 % point, one degree of freedom less."""
_NOISY = 0.10
"""A typical round this far off the median: more than the differences worth talking about."""


def median(values: Sequence[float]) -> float:
    """Return the middle value, or the mean of the two middle ones; ValueError when there is none."""
    if not values:
        raise ValueError("there is no median of no values")
    return statistics.median(values)


def interval_of(values: Sequence[float]) -> Interval | None:
    """Return the median and its 95 % confidence interval; None for fewer than two values."""
    if len(values) < 2:
        return None
    low, high = _by_students_t(values) if len(values) in _STUDENTS_T else _by_signs(values)
    return Interval(median(values), low, high)


def interval_of_differences(values: Sequence[float], baseline: Sequence[float]) -> Interval | None:
    """Return how much `values` is above `baseline`, paired by round, in their unit.

    None for fewer than two rounds. ValueError when the rounds do not pair.
    """
    return interval_of([value - base for value, base in zip(values, baseline, strict=True)])


def interval_of_ratios(values: Sequence[float], baseline: Sequence[float]) -> Interval | None:
    """Return how many times `baseline` `values` is, paired by round.

    On logarithms, so that the interval of the inverse ratio is the inverse interval. None for
    fewer than two rounds, and when a round did nothing: its ratio says nothing about speed.
    ValueError when the rounds do not pair.
    """
    pairs = list(zip(values, baseline, strict=True))
    if any(value <= 0 or base <= 0 for value, base in pairs):
        return None
    logs = interval_of([math.log(value / base) for value, base in pairs])
    return logs and Interval(math.exp(logs.median), math.exp(logs.low), math.exp(logs.high))


def _by_students_t(values: Sequence[float]) -> tuple[float, float]:
    """For two to five values. It holds their median: none is further off the mean than s."""
    half = _STUDENTS_T[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean - half, mean + half


def _by_signs(values: Sequence[float]) -> tuple[float, float]:
    """For six values or more: between the depth that covers too much and the next, too little."""
    ordered, count = sorted(values), len(values)
    depth = 1
    while _coverage(count, depth + 1) >= CONFIDENCE:
        depth += 1
    more, less = _coverage(count, depth), _coverage(count, depth + 1)
    share = (more - CONFIDENCE) / (more - less)
    inward = (count - depth) * share / (depth + (count - 2 * depth) * share)
    low = ordered[depth - 1] + inward * (ordered[depth] - ordered[depth - 1])
    high = ordered[-depth] - inward * (ordered[-depth] - ordered[-depth - 1])
    return low, high


def _coverage(count: int, depth: int) -> float:
    """Probability that the median is between the `depth`-th smallest and `depth`-th largest value."""
    outside: float = sum(math.comb(count, below) for below in range(depth)) / 2**count
    return 1 - 2 * outside


def spread(by_endpoint: Mapping[str, int]) -> Spread:
    """Judge how evenly endpoints were chosen, by Pearson's chi-squared test.

    `by_endpoint` names every endpoint, those that got nothing too. Nothing at all is even.
    """
    counts = list(by_endpoint.values())
    total = sum(counts)
    if total == 0:
        return Spread(dict(by_endpoint), max_over_mean=1.0, chi_squared_p=1.0)
    mean = total / len(counts)
    chi_squared = sum((count - mean) ** 2 for count in counts) / mean
    p = chi_squared_p(chi_squared, len(counts) - 1)
    return Spread(dict(by_endpoint), max_over_mean=max(counts) / mean, chi_squared_p=p)


def chi_squared_p(chi_squared: float, freedom: int) -> float:
    """Return the probability of so much or more: the regularised incomplete gamma Q(freedom/2, x/2).

    Degrees of freedom are whole, so Q(a + 1, x) = Q(a, x) + x^a e^-x / Gamma(a + 1) (DLMF 8.8.6)
    climbs there from Q(1/2, x) = erfc(sqrt x), or Q(1, x) = e^-x; every term is positive.
    """
    x = chi_squared / 2
    if freedom == 0 or x == 0:
        return 1.0
    a, q = (0.5, math.erfc(math.sqrt(x))) if freedom % 2 else (1.0, math.exp(-x))
    while a < freedom / 2:
        q += math.exp(a * math.log(x) - x - math.lgamma(a + 1))
        a += 1
    return min(q, 1.0)


def noise_warnings(by_round: Sequence[float]) -> list[str]:
    """Say so when rounds of one measurement differ too much for its absolute figures to be trusted.

    Judged by the median deviation from the median: one disturbed round among many does no harm
    to medians and is no reason to warn.
    """
    if len(by_round) < 2:
        return []
    middle = median(by_round)
    if middle <= 0:
        return []
    typical = median([abs(value - middle) for value in by_round]) / middle
    if typical <= _NOISY:
        return []
    return [
        f"noisy machine: a typical round is {typical:.0%} off the median "
        f"({min(by_round):,.0f} to {max(by_round):,.0f} per second); trust the ratios, not the figures"
    ]
