"""From the rounds of one workload over one path to the measurement that is reported.

Owns which figure is a median over rounds and which is of all rounds together, and what makes a
measurement one not to trust. Pure.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from uproxy.bench.costs import CpuTime
from uproxy.bench.latency import Latencies
from uproxy.bench.measure import Sample
from uproxy.bench.results import Interval, Measurement, ProcessCost
from uproxy.bench.stats import (
    interval_of_differences,
    interval_of_ratios,
    median,
    noise_warnings,
    spread,
)
from uproxy.bench.workloads import Load, Spread

NOISY = "noisy machine"
"""How a warning begins that is about the machine and not about the path; see stats.py too."""
RATE_KEPT = 0.97
"""Of the rate asked for: a path that does less does not sustain it."""
_BEHIND = 0.01
_BUSY_GENERATOR = 0.9
_IDLE_PROXY = 0.9
_STOLEN = 0.05
_OTHERS = 0.15
_GB = 1e9


def measurement(
    path: str, load: Load, samples: Sequence[Sample], direct: Sequence[Sample], proxy: str | None
) -> Measurement:
    """Put the rounds of one workload over one path together.

    `direct` has the same rounds over the baseline, and nothing where there is none or this is it;
    `proxy` names the program that carries the path.
    """
    # A round in which nothing was done says nothing about speed.
    both = zip(samples, direct, strict=False)
    samples_of_both = [pair for pair in both if all(sample.outcome.operations for sample in pair)]
    corrected = _merged(sample.outcome.corrected for sample in samples)
    uncorrected = _merged(sample.outcome.uncorrected for sample in samples)
    figures = corrected.percentiles() if corrected else None
    errors = _errors(samples)
    is_ours = any(sample.server.total_s for sample in samples)
    return Measurement(
        path=path,
        workload=load.name,
        rounds=len(samples),
        ops_per_s=median([sample.ops_per_s for sample in samples]),
        ops_per_s_by_round=[sample.ops_per_s for sample in samples],
        p50_us=figures.p50_us if figures else None,
        p99_us=figures.p99_us if figures else None,
        corrected=figures,
        uncorrected=uncorrected.percentiles() if uncorrected else None,
        histogram=corrected.encode() if corrected else None,
        ops_ratio_to_direct=_ratio(samples_of_both),
        p50_us_over_direct=_added_latency(samples_of_both),
        rate_per_s=samples[0].rate_per_s,
        cpu_us_per_op=_per_op_us(samples, _everybody) if is_ours and not load.is_stream else None,
        cpu_s_per_gb=_per_gb(samples, lambda sample: sample.proxy) if load.is_stream and proxy else None,
        costs=_costs(samples, load, proxy),
        errors=errors.total(),
        errors_by_kind=dict(errors),
        warnings=warnings(samples, proxied=proxy is not None),
    )


def spread_measurement(
    path: str, workload: Spread, samples: Sequence[Sample], endpoints: Iterable[str]
) -> Measurement:
    """Put the rounds together that tell who of `endpoints`, and of those seen, got connections."""
    counts = Counter[str](dict.fromkeys(endpoints, 0))
    errors = Counter[str]()
    for sample in samples:
        counts.update(sample.outcome.by_endpoint)
        errors.update(sample.outcome.errors_by_kind)
    per_s = [sample.ops_per_s for sample in samples]
    return Measurement(
        path=path,
        workload=workload.name,
        rounds=len(samples),
        ops_per_s=median(per_s),
        ops_per_s_by_round=per_s,
        errors=errors.total(),
        errors_by_kind=dict(errors),
        spread=spread(counts),
        warnings=[f"{errors.total():,} errors"] if errors else [],
    )


def warnings(samples: Sequence[Sample], *, proxied: bool) -> list[str]:
    """Say what makes these rounds ones not to trust; nothing when they are fine."""
    found = []
    if failed := _errors(samples).total():
        done = sum(sample.outcome.operations for sample in samples)
        share = failed / (failed + done)
        found.append(f"{failed:,} errors ({share:.2%} of what was tried): not to be compared")
    if idle := sum(not sample.outcome.operations for sample in samples):
        rounds = f"in {idle} of {len(samples)} rounds, which no ratio or difference counts"
        found.append(f"nothing was done {'at all' if idle == len(samples) else rounds}")
    rate = samples[0].rate_per_s
    if rate is not None and not sustained(samples):
        reached = median([sample.ops_per_s for sample in samples])
        found.append(f"{rate:,.0f} per second asked, {reached:,.0f} done: latency is of an overloaded path")
    found += _generator_warnings(samples, proxied=proxied)
    if (stolen := median([sample.stolen_share for sample in samples])) > _STOLEN:
        found.append(f"{NOISY}: its hypervisor took {stolen:.0%} of a CPU")
    if (others := median([sample.others_share for sample in samples])) > _OTHERS:
        found.append(f"{NOISY}: other programs took {others:.0%} of a CPU")
    return found + noise_warnings([sample.ops_per_s for sample in samples])


def is_noise(warning: str) -> bool:
    """Whether a warning is about the machine."""
    return warning.startswith(NOISY)


def noise_of_run(measurements: Sequence[Measurement], samples: Sequence[Sample]) -> list[str]:
    """Say once for the whole run how much it was disturbed; nothing when it was not."""
    in_rounds = [one for one in measurements if one.rounds > 1]
    disturbed = sum(any(map(is_noise, one.warnings)) for one in in_rounds)
    if not disturbed:
        return []
    stolen = median([sample.stolen_share for sample in samples])
    others = median([sample.others_share for sample in samples])
    return [
        f"{NOISY}: {disturbed} of {len(in_rounds)} measurements were disturbed; typically its hypervisor "
        f"took {stolen:.0%} of a CPU and other programs {others:.0%}: trust the ratios, not the figures"
    ]


def sustained(samples: Sequence[Sample]) -> bool:
    """Whether the rate asked for was kept; True at saturation, where none is asked."""
    rate = samples[0].rate_per_s
    return rate is None or median([sample.ops_per_s for sample in samples]) >= RATE_KEPT * rate


def _errors(samples: Sequence[Sample]) -> Counter[str]:
    """Failures by kind. What waits at the end for its turn on an overloaded path has not failed."""
    found = Counter[str]()
    for sample in samples:
        found.update(sample.outcome.errors_by_kind)
    if sustained(samples) and (stuck := sum(sample.outcome.stuck for sample in samples)):
        found["no-answer"] = stuck
    return found


def _generator_warnings(samples: Sequence[Sample], *, proxied: bool) -> list[str]:
    found = []
    if median([sample.outcome.behind_schedule for sample in samples]) > _BEHIND:
        found.append(f"the generator sent more than {_BEHIND:.0%} of requests over 1 ms late")
    busy = median([sample.outcome.cpu_share for sample in samples])
    # Without a proxy the generator and the server are all there is: they set the pace by design.
    idle = median([1 - sample.proxy.total_s / (sample.outcome.elapsed_s or 1) for sample in samples])
    if proxied and busy > _BUSY_GENERATOR and idle > 1 - _IDLE_PROXY:
        found.append(
            f"the generator used {busy:.0%} of its CPU and left the proxy {idle:.0%} idle: "
            "it may be what is measured"
        )
    if samples[0].outcome.generator == "python":
        found.append("the Python generator made the load: slower than what it measures")
    return found


def _merged(texts: Iterable[str | None]) -> Latencies | None:
    merged = Latencies()
    found = [text for text in texts if text]
    for text in found:
        merged.merge(Latencies.decode(text))
    return merged if found else None


def _ratio(rounds: Sequence[tuple[Sample, Sample]]) -> Interval | None:
    ours, theirs = _columns(rounds, lambda sample: sample.ops_per_s)
    return interval_of_ratios(ours, theirs)


def _added_latency(rounds: Sequence[tuple[Sample, Sample]]) -> Interval | None:
    both = [pair for pair in rounds if all(sample.outcome.corrected for sample in pair)]
    ours, theirs = _columns(both, _p50_us)
    return interval_of_differences(ours, theirs)


def _columns(
    rounds: Sequence[tuple[Sample, Sample]], figure: Callable[[Sample], float]
) -> tuple[list[float], list[float]]:
    return [figure(ours) for ours, _ in rounds], [figure(theirs) for _, theirs in rounds]


def _p50_us(sample: Sample) -> float:
    return Latencies.decode(sample.outcome.corrected or "").percentile_ns(50) / 1000


def _costs(samples: Sequence[Sample], load: Load, proxy: str | None) -> list[ProcessCost]:
    spenders: dict[str, Callable[[Sample], CpuTime]] = {"client": lambda sample: sample.client}
    if any(sample.server.total_s for sample in samples):
        spenders["server"] = lambda sample: sample.server
    if proxy:
        spenders[proxy] = lambda sample: sample.proxy
    return [_cost(name, samples, spent, is_stream=load.is_stream) for name, spent in spenders.items()]


def _cost(
    name: str, samples: Sequence[Sample], spent: Callable[[Sample], CpuTime], *, is_stream: bool
) -> ProcessCost:
    return ProcessCost(
        name,
        _per_op_us(samples, lambda sample: spent(sample).user_s),
        _per_op_us(samples, lambda sample: spent(sample).system_s),
        _per_gb(samples, spent) if is_stream else None,
    )


def _everybody(sample: Sample) -> float:
    return sample.client.total_s + sample.server.total_s + sample.proxy.total_s


def _per_op_us(samples: Sequence[Sample], spent_s: Callable[[Sample], float]) -> float:
    done = [sample for sample in samples if sample.outcome.operations]
    return median([spent_s(sample) * 1e6 / sample.outcome.operations for sample in done]) if done else 0.0


def _per_gb(samples: Sequence[Sample], spent: Callable[[Sample], CpuTime]) -> float:
    done = [sample for sample in samples if sample.outcome.operations]
    per_byte = [spent(sample).total_s / sample.outcome.operations for sample in done]
    return median(per_byte) * _GB if done else 0.0
