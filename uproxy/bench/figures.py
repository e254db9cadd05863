"""Figures as people read them: three digits that mean something, and a unit.

Owns the words and the precision that every form of the report shares. Pure. Refuses more digits
than a benchmark has: the third is noise already.
"""

import math
from collections.abc import Callable
from typing import TypeVar

from uproxy.bench.results import Interval, Measurement
from uproxy.bench.stats import interval_of
from uproxy.bench.titles import is_bulk, is_churn

T = TypeVar("T")

NONE = "-"
"""Where there is no figure."""


def number(value: float) -> str:
    """Three significant digits, or all of a whole number's: `0.0123`, `4.56`, `12.3`, `67,800`."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    rounded = round(value, 2 - math.floor(math.log10(abs(value))))
    return f"{rounded:,.{places}f}".replace("-", "\N{MINUS SIGN}")


def duration(us: float) -> str:
    """Microseconds, in the unit that suits: `437 µs`, `1.52 ms`, `2.50 s`."""
    divisor, unit = _duration_unit(us)
    return f"{number(us / divisor)} {unit}"


def round_duration(us: float) -> str:
    """As `duration`, for the round figures at an axis: `50 µs`."""
    divisor, unit = _duration_unit(us * 1.000001)  # 1,000 us can come as 999.9999
    return f"{us / divisor:g} {unit}"


def duration_interval(interval: Interval) -> str:
    """Microseconds with the ends of their interval, in one unit: `121 µs (116 to 130)`."""
    divisor, unit = _duration_unit(max(abs(interval.low), abs(interval.median), abs(interval.high)))
    median, low, high = (number(us / divisor) for us in (interval.median, interval.low, interval.high))
    return f"{median} {unit} ({low} to {high})"


def _duration_unit(us: float) -> tuple[float, str]:
    if abs(us) < 1e3:
        return 1, "µs"
    return (1e3, "ms") if abs(us) < 1e6 else (1e6, "s")


def rate(per_s: float, workload: str) -> str:
    """Operations each second, or bytes: `67,800/s`, `4.27 GB/s`."""
    return f"{_bytes(per_s, 1000, 'B')}/s" if is_bulk(workload) else f"{number(per_s)}/s"


def size(count: float) -> str:
    """Memory: `512 B`, `4.12 KiB`."""
    return _bytes(count, 1024, "iB")


def _bytes(count: float, step: int, suffix: str) -> str:
    for prefix in ("", "k" if step == 1000 else "K", "M", "G"):
        if abs(count) < step:
            return f"{number(count)} {prefix + suffix if prefix else 'B'}"
        count /= step
    return f"{number(count)} T{suffix}"


def times(ratio: float) -> str:
    """How many times something else: `0.46x`."""
    return f"{ratio:.2f}x" if ratio >= 0.1 else f"{number(ratio)}x"


def times_interval(interval: Interval) -> str:
    """A ratio with the ends of its interval: `0.46x (0.44 to 0.48)`."""
    return f"{times(interval.median)} ({times(interval.low)[:-1]} to {times(interval.high)[:-1]})"


def optional(text: Callable[[T], str], value: T | None) -> str:
    """Return `text(value)`, or the sign for no figure."""
    return NONE if value is None else text(value)


def proxy_cpu_us_per_op(measurement: Measurement) -> float | None:
    """CPU that the proxy's own programs spend on an operation; None on paths without one."""
    costs = [cost for cost in measurement.costs if cost.name not in ("client", "server")]
    return sum(cost.user_us_per_op + cost.system_us_per_op for cost in costs) if costs else None


def live_after_us(m: Measurement) -> Interval | None:
    """The time that a change takes; None where nothing changes, and of fewer than two changes. They follow
    each other, so their rate is its inverse."""
    waits = [1e6 / per_s for per_s in m.ops_per_s_by_round if per_s > 0]
    return interval_of(waits) if is_churn(m) else None
