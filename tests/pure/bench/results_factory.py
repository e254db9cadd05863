"""Made-up results that look like a real run: latencies with a body and a tail, rounds with noise.

Everything comes from a fixed seed; the same arguments give the same results.
"""

import math
import random
from dataclasses import dataclass
from functools import cache

from hdrh.histogram import HdrHistogram

from uproxy.bench.latency import DIGITS, HIGHEST_NS, LOWEST_NS
from uproxy.bench.results import Machine, Measurement, Percentiles, ProcessCost, Results
from uproxy.bench.stats import interval_of_differences, interval_of_ratios, median, spread


@dataclass(frozen=True)
class Cost:
    """What a path costs, in the made-up world."""

    p50_us: float
    speed: float
    bulk: float
    proxy: str | None = None
    proxy_us: float = 0.0


PATHS = {
    "direct": Cost(116, 1.0, 1.0),
    "uproxy-bind": Cost(242, 0.46, 0.72, "uproxy", 14.7),
    "uproxy-redirect": Cost(258, 0.41, 0.69, "uproxy", 16.6),
    "uproxy-bind-python": Cost(251, 0.40, 0.70, "uproxy", 18.9),
    "uproxy-redirect-python": Cost(269, 0.36, 0.66, "uproxy", 21.5),
    "kernel-dnat": Cost(121, 0.83, 0.97),
    "haproxy": Cost(244, 0.51, 0.38, "haproxy", 13.0),
    "haproxy-tuned": Cost(249, 0.45, 0.64, "haproxy", 16.0),
    "nginx": Cost(239, 0.52, 0.36, "nginx", 11.4),
}
WORKLOADS = ("rr-1x64B", "rr-64x64B", "crr-32", "stream-down-8")
_BASE_OPS = {"rr-1x64B": 7_500.0, "rr-64x64B": 150_000.0, "crr-32": 20_000.0, "stream-down-8": 4.1e9}

MACHINE = Machine(
    kernel="6.8.0-45-generic",
    cpu="AMD EPYC 7763 64-Core Processor",
    cores=8,
    governor="performance",
    memory_bytes=16 * 2**30,
    versions={
        "uproxy": "0.1.0",
        "python": "3.11.9",
        "haproxy": "2.6.12",
        "nginx": "1.22.1",
        "commit": "54b7931",
    },
    sysctls={"net.ipv4.tcp_congestion_control": "reno", "net.core.somaxconn": "4096"},
    generator="native",
)


def results(*, paths=tuple(PATHS), workloads=WORKLOADS, rounds=7, seed=1, slower=None, **changes) -> Results:
    """A whole run. `slower` multiplies the cost of some paths: `{"uproxy-bind": 1.5}`."""
    factors = tuple((slower or {}).items())
    return run_of(list(_measured(tuple(paths), tuple(workloads), rounds, seed, factors)), **changes)


@cache
def _measured(paths, workloads, rounds, seed, slower) -> tuple[Measurement, ...]:
    rng = random.Random(seed)
    measured = []
    for workload in workloads:
        base = None
        for path in paths:
            made = _Made(rng, path, workload, rounds, dict(slower).get(path, 1.0))
            base = made if path == "direct" else base
            measured.append(made.measurement(base))
    return tuple(measured)


def run_of(measurements, **changes) -> Results:
    """Measurements made elsewhere, as a run."""
    fields = {
        "started": "2026-11-23T09:30:00+00:00",
        "command": ["uproxy", "bench", "--report", "out"],
        "seconds_per_measurement": 0.5,
        "complete": True,
        "machine": MACHINE,
        "measurements": list(measurements),
    }
    return Results(**(fields | changes))


def measurement(path="uproxy-bind", workload="rr-64x64B", **changes) -> Measurement:
    """A single one, with only what it must have, and `changes`."""
    fields = {"rounds": 3, "ops_per_s": 100.0, "ops_per_s_by_round": [90.0, 100.0, 110.0]}
    return Measurement(path=path, workload=workload, **(fields | changes))


class _Made:
    def __init__(self, rng, path, workload, rounds, slower) -> None:
        self.rng, self.path, self.workload = rng, path, workload
        self.cost = PATHS.get(path) or Cost(200, 0.6, 0.8)
        self.bulk = workload.startswith("stream")
        speed = (self.cost.bulk if self.bulk else self.cost.speed) / slower
        self.rounds = [_BASE_OPS.get(workload, 1e4) * speed * self.noise() for _ in range(rounds)]
        connections = {"rr-64x64B": 3.6 / speed, "crr-32": 13 / speed}.get(workload, 1.0)
        self.p50_us = (116 if connections > 1 else self.cost.p50_us * slower) * connections
        self.p50_by_round = [self.p50_us * self.noise() for _ in range(rounds)]

    def noise(self) -> float:
        return self.rng.lognormvariate(0, 0.03)

    def measurement(self, base) -> Measurement:
        ours = self if base is not self else None
        common = {
            "path": self.path,
            "workload": self.workload,
            "rounds": len(self.rounds),
            "ops_per_s": median(self.rounds),
            "ops_per_s_by_round": self.rounds,
            "costs": self.costs(),
            "ops_ratio_to_direct": interval_of_ratios(self.rounds, base.rounds) if base and ours else None,
        }
        if self.bulk:
            proxied = self.cost.proxy is not None
            return Measurement(**common, cpu_s_per_gb=self.cost.proxy_us / 90 if proxied else None)
        return Measurement(**common, **self.latency(base if ours else None), **self.chosen())

    def latency(self, base) -> dict:
        histogram = HdrHistogram(LOWEST_NS, HIGHEST_NS, DIGITS)
        for _ in range(4_000):
            us = self.rng.lognormvariate(math.log(self.p50_us), 0.18)
            histogram.record_value(round(us * 1000), 29)
        for _ in range(2_400):  # the tail is drawn finer: 2 % of all
            us = self.p50_us * self.rng.lognormvariate(0.2, 0.18) + self.rng.expovariate(0.25 / self.p50_us)
            histogram.record_value(round(us * 1000))
        at = [histogram.get_value_at_percentile(p) / 1000 for p in (50, 90, 99, 99.9, 99.99, 100)]
        return {
            "p50_us": at[0],
            "p99_us": at[2],
            "corrected": Percentiles(*at),
            "uncorrected": Percentiles(*(us * 0.9 for us in at)),
            "histogram": histogram.encode().decode(),
            "p50_us_over_direct": base and interval_of_differences(self.p50_by_round, base.p50_by_round),
            "cpu_us_per_op": sum(cost.user_us_per_op + cost.system_us_per_op for cost in self.costs()),
        }

    def costs(self) -> list[ProcessCost]:
        scale = {"crr-32": 6.0, "rr-1x64B": 4.0, "stream-down-8": 1e-5}.get(self.workload, 1.0)
        per_gb = 0.24 if self.bulk else None
        made = [
            ProcessCost("client", 1.1 * scale, 5.6 * scale, per_gb),
            ProcessCost("server", 0.9 * scale, 5.4 * scale, per_gb),
        ]
        if self.cost.proxy:
            own = self.cost.proxy_us * scale
            made.append(
                ProcessCost(
                    self.cost.proxy, own * 0.35, own * 0.65, self.cost.proxy_us / 90 if self.bulk else None
                )
            )
        return made

    def chosen(self) -> dict:
        if not self.workload.startswith("crr") or self.cost.proxy is None:
            return {}
        counts = {f"10.244.0.{n}:8080": self.rng.randint(1_950, 2_050) for n in (11, 12, 13)}
        return {"spread": spread(counts)}
