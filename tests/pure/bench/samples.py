"""Made-up rounds: what the generator would have said, and what /proc would."""

from functools import cache

from uproxy.bench.costs import CpuTime
from uproxy.bench.latency import Latencies
from uproxy.bench.load.plan import LoadOutcome
from uproxy.bench.measure import Sample


@cache
def _histogram(p50_us: float) -> str:
    latencies = Latencies()
    latencies.record(p50_us * 1000, 100)
    return latencies.encode()


def sample(
    per_s=1000.0, *, p50_us=100.0, rate=None, proxy_s=0.0, stolen=0.0, others=0.0, **outcome
) -> Sample:
    """One round of a second, all answers but for `outcome`'s fields as good as can be."""
    said = {
        "workload": "rr",
        "generator": "native",
        "operations": int(per_s),
        "elapsed_s": 1.0,
        "bytes_up": 0,
        "bytes_down": 0,
        "errors_by_kind": {},
        "corrected": _histogram(p50_us),
        "uncorrected": _histogram(p50_us),
        "generator_user_s": 0.1,
        "generator_system_s": 0.2,
        "cpu_share": 0.3,
        "behind_schedule": 0.0,
        "by_endpoint": {},
        "longest_gap_ms": 1.0,
        "stuck": 0,
        "held": 0,
    }
    return Sample(
        outcome=LoadOutcome(**(said | outcome)),
        rate_per_s=rate,
        proxy=CpuTime(proxy_s / 4, proxy_s * 3 / 4),
        server=CpuTime(0.1, 0.1),
        stolen_share=stolen,
        others_share=others,
    )
