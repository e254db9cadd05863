"""The report of relay.py: pure functions from samples to text.

No figure stands alone: beside each is its ratio to default HAProxy and to the direct pod.
A ratio is the median of the ratios within each round, since the rounds themselves differ.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.load import Result, Workload

DIRECT = "direct"
BASELINE = "haproxy"
_BARS = {"rr": 0.9, "crr": 0.6, "bulk": 1.5}
"""At least so many times default HAProxy; the figures of the Python relay's issue."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One workload over one path in one round; CPU seconds of the node's programs and the server."""

    result: Result
    proxy_cpu_s: float
    server_cpu_s: float

    @property
    def failed(self) -> bool:
        """Whether the figure must not be compared with others."""
        return self.result.errors > 0 or self.result.ops == 0


Samples = Mapping[tuple[str, str], Sequence[Sample]]
"""By path and workload name; one sample for each round, in the order of the rounds."""


def report(workloads: Sequence[Workload], paths: Sequence[str], samples: Samples) -> str:
    """Lay out everything that was measured, then which bars were met."""
    tables = [_table(workload, paths, samples) for workload in workloads]
    return "\n\n".join([*tables, _verdicts(workloads, paths, samples)])


def ratio(samples: Samples, workload: str, path: str, base: str) -> float | None:
    """How many times `base` a path did; None when one of them is absent, failed or idle."""
    ours, theirs = samples.get((path, workload), ()), samples.get((base, workload), ())
    if not ours or not theirs or any(sample.failed for sample in (*ours, *theirs)):
        return None
    return median(o.result.rate / t.result.rate for o, t in zip(ours, theirs, strict=True))


def _table(workload: Workload, paths: Sequence[str], samples: Samples) -> str:
    amount, cost = ("MB/s", "proxy s/GB") if workload.is_bulk else ("ops/s", "proxy us/op")
    head = _line(workload.name, amount, "p50 us", "p99 us", "x haproxy", "x direct", cost, *_CPU_HEADS)
    rows = [_row(workload, path, samples) for path in paths]
    return "\n".join([head, "-" * len(head), *rows])


def _row(workload: Workload, path: str, samples: Samples) -> str:
    of_path = samples[path, workload.name]
    row = _line(
        f"  {path}",
        f"{median(s.result.rate for s in of_path) / (1e6 if workload.is_bulk else 1):,.0f}",
        *_latencies(workload, of_path),
        _times(ratio(samples, workload.name, path, BASELINE)),
        _times(ratio(samples, workload.name, path, DIRECT)),
        _cost(workload, of_path),
        *_cpu_shares(of_path),
    )
    errors = sum(sample.result.errors for sample in of_path)
    return row + (f"  <== {errors} ERRORS: NOT COMPARABLE" if errors else "")


_CPU_HEADS = ("CPU: client", "proxy", "server")
_WIDTHS = (26, 9, 8, 8, 11, 10, 13, 13, 7, 8)


def _line(name: str, *columns: str) -> str:
    return f"{name:<{_WIDTHS[0]}}" + "".join(
        f"{text:>{width}}" for text, width in zip(columns, _WIDTHS[1:], strict=True)
    )


def _latencies(workload: Workload, samples: Sequence[Sample]) -> tuple[str, str]:
    if workload.is_bulk:
        return "-", "-"
    return (
        f"{median(s.result.p50_us for s in samples):.0f}",
        f"{median(s.result.p99_us for s in samples):.0f}",
    )


def _cost(workload: Workload, samples: Sequence[Sample]) -> str:
    """CPU of the proxy for one operation; softirq work that lands on others is not in it."""
    unit = 1e9 if workload.is_bulk else 1e-6
    done = [s for s in samples if s.result.ops and s.proxy_cpu_s]
    if not done:
        return "-"
    per_op = median(s.proxy_cpu_s / s.result.ops for s in done)
    return f"{per_op * unit:.2f}" if workload.is_bulk else f"{per_op / unit:.1f}"


def _cpu_shares(samples: Sequence[Sample]) -> tuple[str, str, str]:
    """Of one core: near 100 % for the client or server means that they, not the path, set the pace."""
    return (
        f"{median(s.result.cpu_s / s.result.seconds for s in samples):.0%}",
        f"{median(s.proxy_cpu_s / s.result.seconds for s in samples):.0%}",
        f"{median(s.server_cpu_s / s.result.seconds for s in samples):.0%}",
    )


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


def _verdicts(workloads: Sequence[Workload], paths: Sequence[str], samples: Samples) -> str:
    lines = [
        _verdict(workload, path, ratio(samples, workload.name, path, BASELINE))
        for workload in workloads
        if workload.connections > 1 or workload.is_bulk
        for path in paths
        if path.startswith("uproxy")
    ]
    return "\n".join(["Bars, in times default HAProxy:", *(lines or ["  uproxy was not measured"])])


def _verdict(workload: Workload, path: str, reached: float | None) -> str:
    bar = _BARS[workload.mode]
    said = "not judged"
    if reached is not None:
        said = f"{reached:.2f}x, {'met' if reached >= bar else 'NOT MET'}"
    return f"  {workload.name:<26}{path:<17}>= {bar}x: {said}"
