"""What a run has found so far, at any moment: Ctrl-C and a proxy's death leave the rest valid."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from uproxy.bench.assemble import measurement, spread_measurement, sustained
from uproxy.bench.measure import Sample
from uproxy.bench.results import Measurement
from uproxy.bench.workloads import Load, Spread, Workload


@dataclass(slots=True)
class Record:
    """Samples of what is measured in rounds, and whole measurements of what is not."""

    baseline: str
    """The path that the others are compared with."""
    proxies: dict[str, str | None] = field(default_factory=dict)
    """By path: the program that carries it, None where it is the kernel alone."""
    endpoints: tuple[str, ...] = ()
    """Names of all that a connection may reach, where they are known."""
    samples: dict[tuple[str, str], list[Sample]] = field(default_factory=dict)
    """By path and workload, in the order of the rounds."""
    finished: list[Measurement] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Paths, or a path's workload, and why they were not measured."""
    warnings: list[str] = field(default_factory=list)
    failed: bool = False
    """Whether something that was up has ended, or came to nothing."""

    def add(self, path: str, workload: Workload, sample: Sample) -> None:
        """Keep one round."""
        self.samples.setdefault((path, workload.name), []).append(sample)

    def first_round(self, workload: str) -> list[float]:
        """Operations a second of each path in its first round; empty when that was not measured."""
        return [rounds[0].ops_per_s for (_, name), rounds in self.samples.items() if name == workload]

    def leave_out(self, what: str, reason: str) -> None:
        """Say once why something is not measured."""
        self.left_out.setdefault(what, reason)

    def fail(self, what: str, reason: str) -> None:
        """Note what went wrong with a path that was up, and go on without it."""
        self.left_out[what] = reason.partition("\n")[0]
        self.failed = True

    def measurements(self, workloads: Iterable[Workload]) -> list[Measurement]:
        """Everything, workload by workload."""
        found: list[Measurement] = []
        for workload in workloads:
            found += [one for one in self.finished if one.workload == workload.name]
            found += [
                self._of_rounds(path, workload, samples)
                for (path, name), samples in self.samples.items()
                if name == workload.name
            ]
        return found

    def _of_rounds(self, path: str, workload: Workload, samples: Sequence[Sample]) -> Measurement:
        if isinstance(workload, Spread):
            return spread_measurement(path, workload, samples, self.endpoints)
        if not isinstance(workload, Load):
            raise TypeError(f"{workload.name} is not measured in rounds")
        direct = self.samples.get((self.baseline, workload.name), []) if path != self.baseline else []
        return measurement(path, workload, samples, direct, self.proxies.get(path))

    def unsustained(self) -> list[str]:
        """A line for each path that did less than the rate asked for."""
        return [
            f"{path}: {workload}: {samples[0].rate_per_s:,.0f} per second asked, "
            f"{sum(sample.ops_per_s for sample in samples) / len(samples):,.0f} done"
            for (path, workload), samples in self.samples.items()
            if not sustained(samples)
        ]
