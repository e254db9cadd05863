"""The columns of the report's tables, and the facts of its machine, as text for every form.

Pure. Columns that say nothing about any measurement of a workload are left out of its table.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from uproxy.bench.figures import (
    NONE,
    duration,
    duration_interval,
    live_after_us,
    number,
    optional,
    proxy_cpu_us_per_op,
    rate,
    size,
    times_interval,
)
from uproxy.bench.results import Measurement, Percentiles, Results
from uproxy.bench.titles import understood
from uproxy.bench.workloads import Churn, Idle

_FIGURE = re.compile(r"\d[\d,.]*")


class Column(NamedTuple):
    """A figure of a measurement, as text."""

    head: str
    hint: str
    """What it is, for who points at the head."""
    cell: Callable[[Measurement], str]


def _percentile(figure: Callable[[Percentiles], float]) -> Callable[[Measurement], str]:
    return lambda m: duration(figure(m.corrected)) if m.corrected else NONE


def _speed(m: Measurement) -> str:
    """Connections that are only held have no speed, nor do changes that wait for each other."""
    return NONE if isinstance(understood(m.workload), Idle | Churn) else rate(m.ops_per_s, m.workload)


def _ms(ms: float) -> str:
    return duration(ms * 1e3)


def _live_after(m: Measurement) -> str:
    interval = live_after_us(m)
    return duration_interval(interval) if interval else optional(_ms, m.live_after_ms)


def _proxy_cpu(m: Measurement) -> str:
    return optional(duration, proxy_cpu_us_per_op(m)) if m.cpu_us_per_op is not None else NONE


def _errors(m: Measurement) -> str:
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in m.errors_by_kind.items())
    return f"{m.errors:,}" + (f" ({kinds})" if kinds else "")


COLUMNS = (
    Column("errors", "Operations that failed, by kind", _errors),
    Column("per second", "Operations, or bytes; median over rounds", _speed),
    Column(
        "x direct",
        "Operations per second against direct in the same rounds, and its 95 % interval",
        lambda m: optional(times_interval, m.ops_ratio_to_direct),
    ),
    Column(
        "asked",
        "The rate asked for; none at saturation",
        lambda m: optional(lambda r: f"{number(r)}/s", m.rate_per_s),
    ),
    Column("p50", "Latency from the intended send time", lambda m: optional(duration, m.p50_us)),
    Column(
        "added p50",
        "Latency above direct in the same rounds, and its 95 % interval",
        lambda m: optional(duration_interval, m.p50_us_over_direct),
    ),
    Column("p90", "", _percentile(lambda p: p.p90_us)),
    Column("p99", "", lambda m: optional(duration, m.p99_us)),
    Column("p99.9", "", _percentile(lambda p: p.p99_9_us)),
    Column("p99.99", "", _percentile(lambda p: p.p99_99_us)),
    Column("max", "", _percentile(lambda p: p.max_us)),
    Column(
        "p99 uncorrected",
        "From the actual send time, as most tools count: what omission hides",
        lambda m: duration(m.uncorrected.p99_us) if m.uncorrected else NONE,
    ),
    Column("CPU all", "Of all programs, for an operation", lambda m: optional(duration, m.cpu_us_per_op)),
    Column("CPU proxy", "Of the proxy alone, for an operation", _proxy_cpu),
    Column("CPU s/GB", "Of the proxy alone", lambda m: optional(number, m.cpu_s_per_gb)),
    Column(
        "RSS/conn",
        "Resident memory of the proxy for a connection",
        lambda m: optional(size, m.rss_bytes_per_connection),
    ),
    Column(
        "kernel/conn",
        "Kernel memory for a connection",
        lambda m: optional(size, m.kernel_bytes_per_connection),
    ),
    Column("longest stall", "Nothing was completed for so long", lambda m: optional(_ms, m.longest_stall_ms)),
    Column(
        "live after",
        "From a change to connections that follow it, and its 95 % interval",
        _live_after,
    ),
)


def warnings_of(measurements: Sequence[Measurement]) -> list[str]:
    """Return the warnings of one workload, a line for each kind, behind the paths that it concerns. Those of
    one kind differ in their figures only, and the first path's stand for all."""
    kinds: dict[str, tuple[str, list[str]]] = {}
    for m in measurements:
        for warning in m.warnings:
            _, paths = kinds.setdefault(_FIGURE.sub("", warning), (warning, []))
            paths.append(m.path)
    return [f"{', '.join(paths)}: {warning}" for warning, paths in kinds.values()]


def filled(measurements: list[Measurement]) -> list[Column]:
    """Return the columns that have something to say about one of `measurements`."""
    return [column for column in COLUMNS if any(column.cell(m) != NONE for m in measurements)]


def facts(results: Results) -> list[tuple[str, str]]:
    """Return what there is to know of the machine and the run, by name."""
    machine = results.machine
    return [
        ("CPU", f"{machine.cpu}, {machine.cores} cores, governor {machine.governor}"),
        ("memory", size(machine.memory_bytes)),
        ("kernel", machine.kernel),
        ("load generator", machine.generator),
        *machine.versions.items(),
        *machine.sysctls.items(),
        ("run", _run(results)),
        ("command", " ".join(results.command)),
    ]


def _run(results: Results) -> str:
    rounds = sorted({m.rounds for m in results.measurements})
    spans = f"{rounds[0]} to {rounds[-1]}" if len(rounds) > 1 else "".join(map(str, rounds)) or "no"
    return f"{results.started}, {spans} rounds of {results.seconds_per_measurement:g} s"
