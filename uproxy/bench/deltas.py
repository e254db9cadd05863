"""One measurement then and now: which of its figures moved, by how much, and beyond noise or not.

Pure. Knows which figures have an interval over rounds, which way is worse, and which of them mean
something on another machine; `compare` decides what to make of it.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from uproxy.bench.figures import (
    duration,
    duration_interval,
    live_after_us,
    number,
    proxy_cpu_us_per_op,
    rate,
    size,
    times_interval,
)
from uproxy.bench.results import Interval, Measurement
from uproxy.bench.stats import interval_of
from uproxy.bench.titles import is_churn, is_spoilt


class Delta(NamedTuple):
    """A figure that could be compared."""

    loss: float
    """How much worse, as a share; negative for better, 0.0 when the intervals meet."""
    text: str


class _Figure(NamedTuple):
    name: str
    interval: Callable[[Measurement], Interval | None]
    written: Callable[[Interval, Measurement], str]
    scale: Callable[[Measurement], float | None]
    """What a loss is a share of."""
    sign: int
    """1 where more is better."""
    travels: bool = False
    """Whether it means something on another machine."""


def _held_ratio(m: Measurement) -> float | None:
    return m.ops_ratio_to_direct.median if m.ops_ratio_to_direct else None


def _ops(m: Measurement) -> Interval | None:
    """Where no ratio stands for it."""
    if m.ops_ratio_to_direct is not None or is_churn(m):
        return None
    return interval_of(m.ops_per_s_by_round)


def _ratio(interval: Interval, _: Measurement) -> str:
    return times_interval(interval)


def _duration(interval: Interval, _: Measurement) -> str:
    return duration_interval(interval)


def _rate(interval: Interval, m: Measurement) -> str:
    low, high = rate(interval.low, m.workload), rate(interval.high, m.workload)
    return f"{rate(interval.median, m.workload)} ({low} to {high})"


def _live_after_scale(m: Measurement) -> float | None:
    return m.live_after_ms and m.live_after_ms * 1e3


_FIGURES = (
    _Figure(
        "throughput against direct", lambda m: m.ops_ratio_to_direct, _ratio, _held_ratio, 1, travels=True
    ),
    _Figure("added p50", lambda m: m.p50_us_over_direct, _duration, lambda m: m.p50_us, -1),
    _Figure("throughput", _ops, _rate, lambda m: m.ops_per_s, 1),
    _Figure(
        "live after",
        live_after_us,
        _duration,
        lambda m: m.live_after_ms and m.live_after_ms * 1e3,
        -1,
    ),
)


def compared_figures(old: Measurement, new: Measurement, *, same_machine: bool) -> list[Delta]:
    """Return every figure that both have with an interval; nothing where errors spoilt one of them.

    Errors where there were none are a loss without measure.
    """
    if is_spoilt(new) and not is_spoilt(old):
        return [Delta(math.inf, f"{new.errors:,} errors, none before")]
    if is_spoilt(old) or is_spoilt(new):
        return []
    figures = (figure for figure in _FIGURES if figure.travels or same_machine)
    return [delta for figure in figures if (delta := _delta(figure, old, new))]


def _delta(figure: _Figure, old: Measurement, new: Measurement) -> Delta | None:
    then, now, scale = figure.interval(old), figure.interval(new), figure.scale(old)
    if then is None or now is None or not scale:
        return None
    meets = then.low <= now.high and now.low <= then.high
    loss = 0.0 if meets else figure.sign * (then.median - now.median) / scale
    text = f"{figure.name} {figure.written(then, old)}, now {figure.written(now, new)}"
    return Delta(loss, text if meets else f"{text}: {abs(loss):.0%} {'worse' if loss > 0 else 'better'}")


_UNJUDGED: tuple[tuple[str, Callable[[Measurement], float | None], Callable[[float], str]], ...] = (
    ("CPU of the proxy", proxy_cpu_us_per_op, duration),
    ("CPU s/GB of the proxy", lambda m: m.cpu_s_per_gb, number),
    ("RSS/conn", lambda m: m.rss_bytes_per_connection, size),
    ("kernel/conn", lambda m: m.kernel_bytes_per_connection, size),
    ("longest stall", lambda m: m.longest_stall_ms and m.longest_stall_ms * 1e3, duration),
    ("errors", lambda m: float(m.errors), number),
)


def moved_figures(old: Measurement, new: Measurement, tolerance: float) -> Iterator[str]:
    """Tell what moved by more than a share of what it was, among figures without an interval."""
    if is_spoilt(old) or is_spoilt(new):
        return
    for name, figure, written in _UNJUDGED:
        then, now = figure(old), figure(new)
        if then is not None and now is not None and abs(now - then) > tolerance * abs(then):
            yield f"{new.workload} {new.path}: {name} {written(then)}, now {written(now)}"
