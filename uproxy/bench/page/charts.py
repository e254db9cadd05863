"""What is compared in bars: throughput with direct, CPU by program, memory, waits, endpoints.

Owns which figures go into a bar and what is written beside it; `bars` draws. Each chart is None
when no measurement has its figures.
"""

from collections.abc import Callable

from uproxy.bench.figures import duration, number, rate, round_duration, size, times, times_interval
from uproxy.bench.page.bars import Part, Row, bar_chart
from uproxy.bench.page.markup import Markup
from uproxy.bench.page.palette import Look
from uproxy.bench.results import DIRECT, Interval, Measurement
from uproxy.bench.titles import is_bulk, is_spoilt


def throughput_chart(measurements: list[Measurement], looks: dict[str, Look]) -> Markup | None:
    """Operations per second, as times direct with its 95 % interval; None when there is no ratio."""
    if all(m.ops_ratio_to_direct is None for m in measurements):
        return None
    rows = [_throughput_row(m, looks[m.path]) for m in measurements]
    return bar_chart(rows, "Operations per second, as times direct", lambda ratio: f"{ratio:g}x", mark=1.0)


def _throughput_row(m: Measurement, look: Look) -> Row:
    absolute = rate(m.ops_per_s, m.workload)
    ratio = m.ops_ratio_to_direct
    if is_spoilt(m):
        return Row(m.path, m.path, look, (), f"{m.errors:,} errors")
    if ratio is None:
        is_direct = m.path == DIRECT
        bar = (Part(1.0, "whole", f"direct: {absolute}"),) if is_direct else ()
        return Row(m.path, m.path, look, bar, times(1) if is_direct else "", absolute)
    title = f"{m.path}: {times_interval(ratio)} of direct, 95 % interval in brackets; {absolute}"
    bar = (Part(ratio.median, "whole", title),)
    return Row(m.path, m.path, look, bar, times(ratio.median), absolute, ratio)


def cpu_chart(measurements: list[Measurement], looks: dict[str, Look]) -> Markup | None:
    """CPU of an operation, or seconds of a gigabyte, by program, user and kernel."""
    if not any(m.costs for m in measurements):
        return None
    bulk = is_bulk(measurements[0].workload)
    rows = [_cpu_row(m, looks[m.path], bulk) for m in measurements]
    what = "CPU seconds for each gigabyte" if bulk else "CPU time for each operation"
    return bar_chart(rows, what, (lambda s: f"{s:g} s") if bulk else round_duration)


_BESIDE_THE_PROXY = {"server": 1, "client": 2}


def _cpu_row(m: Measurement, look: Look, bulk: bool) -> Row:
    """The proxy comes first, on the common line, where lengths are easiest to compare."""
    said = _seconds if bulk else duration
    parts: list[Part] = []
    for cost in sorted(m.costs, key=lambda cost: _BESIDE_THE_PROXY.get(cost.name, 0)):
        role = cost.name if cost.name in _BESIDE_THE_PROXY else "proxy"
        for mode, us in (("user", cost.user_us_per_op), ("kernel", cost.system_us_per_op)):
            figure = us * 1e3 if bulk else us  # CPU us for a byte are thousands of seconds for a GB
            parts.append(Part(figure, f"{role} {mode}", f"{m.path}: {cost.name}, {mode}: {said(figure)}"))
    return Row(m.path, m.path, look, tuple(parts), said(sum(part.figure for part in parts)) if parts else "")


def memory_chart(measurements: list[Measurement], looks: dict[str, Look]) -> Markup | None:
    """Memory of a connection: the proxy's own, and the kernel's."""
    rows = []
    for m in measurements:
        known = (
            ("proxy", "resident memory of the proxy", m.rss_bytes_per_connection),
            ("client kernel", "kernel memory", m.kernel_bytes_per_connection),
        )
        parts = tuple(
            Part(max(0.0, count) / 1024, css_class, f"{m.path}: {what}: {size(count)} a connection")
            for css_class, what, count in known
            if count is not None
        )
        if parts:
            text = size(sum(part.figure for part in parts) * 1024)
            rows.append(Row(m.path, m.path, looks[m.path], parts, text))
    return bar_chart(rows, "Memory for each connection", lambda kib: f"{kib:g} KiB") if rows else None


def wait_chart(
    measurements: list[Measurement],
    looks: dict[str, Look],
    what: str,
    figure_ms: Callable[[Measurement], float | None],
    interval_us: Callable[[Measurement], Interval | None] = lambda _: None,
) -> Markup | None:
    """One wait of each path, given in ms: the longest stall, say; with its interval where there is one."""
    rows = []
    for m in measurements:
        if (ms := figure_ms(m)) is not None:
            text = duration(ms * 1e3)
            bar = (Part(ms * 1e3, "whole", f"{m.path}: {text}"),)
            rows.append(Row(m.path, m.path, looks[m.path], bar, text, whisker=interval_us(m)))
    return bar_chart(rows, what, round_duration) if rows else None


def endpoint_chart(m: Measurement, look: Look) -> Markup | None:
    """How many connections each endpoint got, beside the even share."""
    if m.spread is None or not m.spread.by_endpoint:
        return None
    counts = m.spread.by_endpoint
    rows = [
        Row(m.path, name, look, (Part(count, "whole", f"{name}: {count:,}"),), f"{count:,}")
        for name, count in counts.items()
    ]
    return bar_chart(
        rows,
        f"Connections by endpoint over {m.path}",
        lambda n: f"{n:,.0f}",
        sum(counts.values()) / len(counts),
    )


def _seconds(value: float) -> str:
    return f"{number(value)} s"
