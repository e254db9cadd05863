"""A whole run: what is measured when, so that paths are compared within seconds of each other.

Owns the order. Paths that stand ready at once are measured one at a time, in short turns: for
each workload all paths in a row, in an order that moves on by one each round, so that a slow
second of the machine hits all alike. Whatever has been found is in the Record at any moment.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from uproxy.bench.churn import measure_churn, named_servers
from uproxy.bench.failover import measure_failover, reason_impossible
from uproxy.bench.generator import NotAnswered
from uproxy.bench.idle import measure_idle
from uproxy.bench.measure import Sample, measure
from uproxy.bench.paths import SERVICES, TrafficPath
from uproxy.bench.progress import Progress
from uproxy.bench.record import Record
from uproxy.bench.results import DIRECT
from uproxy.bench.sites import PODS, lab_site
from uproxy.bench.stages import MakeSite, Rising, Stage, raise_all, rising
from uproxy.bench.workloads import PACED, SMALL_BYTES, Churn, Failover, Idle, Load, Spread, Workload
from uproxy.errors import CommandFailed

T = TypeVar("T")

_OVERHEAD_S = 0.1
"""Of a measurement: its warm-up, for the most part."""
_STAGE_S = 1.0
_IDLE_S = 1.0
_SERVICES_PER_S = 1500
_WARM_UP = Load("warm-up", "rr", 8, SMALL_BYTES)
_WARM_UP_S = 0.1
_CALIBRATION_S = 0.1
_PACE = 0.5
"""Share of what the slowest path can do: far from saturation, where queues hide a path's own cost."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    rounds: int
    duration_s: float
    """Of one measurement."""
    rate_per_s: float | None
    """Open loop at this rate, for all that has latency; None is closed loop."""
    failover_s: float
    changes: int
    """Of endpoints, for churn."""


def in_order(items: Sequence[T], number: int) -> Sequence[T]:
    """The items as round `number` takes them: each round begins one further on."""
    first = number % len(items) if items else 0
    return (*items[first:], *items[:first])


def planned_s(paths: int, workloads: Sequence[Workload], scale: Scale) -> float:
    """How long a run may take; the progress bar corrects it as it learns."""
    return paths * _STAGE_S + sum(_planned_s(workload, paths, scale) for workload in workloads)


def _planned_s(workload: Workload, paths: int, scale: Scale) -> float:
    match workload:
        case Load() | Spread():
            return paths * scale.rounds * (scale.duration_s + _OVERHEAD_S)
        case Idle():
            return paths * _IDLE_S
        case Churn(services=services):
            return paths * _STAGE_S + services / _SERVICES_PER_S
        case Failover():
            return paths * _STAGE_S + scale.failover_s


class Run:
    """Measures workloads over paths, into a record."""

    def __init__(self, record: Record, progress: Progress, scale: Scale) -> None:
        self._record = record
        self._progress = progress
        self._scale = scale
        self._gone: set[str] = set()
        self._lacking: set[tuple[str, str]] = set()
        """Paths, and a workload that they do not answer though they do others."""

    def over_built(
        self, paths: Sequence[TrafficPath], make_site: MakeSite, workloads: Sequence[Workload]
    ) -> None:
        """Build paths, and measure everything."""
        steady = [workload for workload in workloads if isinstance(workload, Load | Idle | Spread)]
        if steady:
            servers = PODS if any(isinstance(workload, Spread) for workload in steady) else 1
            with ExitStack() as stack:
                built = self._raised(stack, paths, make_site, servers)
                self.over_stages([one.stage for one in built], steady)
        for workload in workloads:
            if isinstance(workload, Churn):
                self._churn(workload, paths, make_site)
            elif isinstance(workload, Failover):
                self._failover(workload, paths, make_site)

    def over_stages(self, stages: Sequence[Stage], workloads: Sequence[Workload]) -> None:
        """Measure what changes nothing about the paths, which are up."""
        for stage in stages:
            self._attempt(stage, "warm-up", 0, partial(measure, stage, _WARM_UP, _WARM_UP_S, None))
        for workload in workloads:
            if isinstance(workload, Idle):
                # Before anything else: what a proxy has taken for other work, it uses again.
                self._idle(stages, workload)
        rates: dict[str, float | None] = {}
        for number in range(self._scale.rounds):
            for workload in workloads:
                if isinstance(workload, Load) and workload.name not in rates:
                    rates[workload.name] = self._rate(stages, workload)
                if isinstance(workload, Load | Spread):
                    self._round(stages, number, workload, rates.get(workload.name))

    def _raised(
        self,
        stack: ExitStack,
        paths: Sequence[TrafficPath],
        make_site: MakeSite,
        servers: int,
        others: int = 0,
    ) -> list[Rising]:
        """Start paths at once; one that does not come up is left out, with what it said."""
        starts = {path.name: rising(path, make_site, servers=servers, others=others) for path in paths}
        found, failed = raise_all(stack, starts)
        for name, error in failed.items():
            self._record.fail(name, error)
        self._progress.done(len(paths) * _STAGE_S + others / _SERVICES_PER_S)
        return found

    def _attempt(self, stage: Stage, doing: str, planned_s: float, work: Callable[[], T]) -> T | None:
        """Do something with a path; one that has failed is out from then on."""
        self._progress.show(f"{doing}, {stage.path}")
        try:
            return None if stage.path in self._gone else work()
        except CommandFailed as error:
            self._gone.add(stage.path)
            self._record.fail(stage.path, str(error))
            return None
        finally:
            self._progress.done(planned_s)

    def _idle(self, stages: Sequence[Stage], idle: Idle) -> None:
        for stage in stages:
            if not stage.servers:
                self._record.leave_out(idle.name, "memory can be read on this machine only")
                continue
            found = self._attempt(stage, idle.name, _IDLE_S, partial(measure_idle, stage, idle))
            if found:
                self._record.finished.append(found)

    def _rate(self, stages: Sequence[Stage], load: Load) -> float | None:
        """Operations a second to ask for; None to take what each path gives."""
        if load.is_stream:
            return None
        if self._scale.rate_per_s or not load.paced:
            return self._scale.rate_per_s
        first = self._record.first_round(load.name.removeprefix(PACED))
        reached = first or self._saturated(stages, load)
        return max(1.0, _PACE * min(filter(None, reached), default=0.0))

    def _saturated(self, stages: Sequence[Stage], load: Load) -> list[float]:
        """What each path can do, for a moment; where it was not measured anyway."""
        doing = f"{load.name}: which path is the slowest"
        reached = [
            self._try(stage, load, doing, 0, partial(measure, stage, load, _CALIBRATION_S, None))
            for stage in stages
            if stage.carries_udp or not load.is_udp
        ]
        return [sample.ops_per_s for sample in reached if sample]

    def _round(
        self, stages: Sequence[Stage], number: int, workload: Load | Spread, rate: float | None
    ) -> None:
        doing = f"round {number + 1} of {self._scale.rounds}: {workload.name}"
        planned_s = self._scale.duration_s + _OVERHEAD_S
        for stage in in_order(stages, number):
            if isinstance(workload, Load) and workload.is_udp and not stage.carries_udp:
                self._record.leave_out(f"{stage.path}: {workload.name}", "it does not carry UDP")
                continue
            if isinstance(workload, Spread) and stage.all is None:
                continue  # nothing chooses an endpoint there
            work = partial(self._sample, stage, workload, rate)
            sample = self._try(stage, workload, doing, planned_s, work)
            if sample:
                self._record.add(stage.path, workload, sample)

    def _try(
        self, stage: Stage, workload: Load | Spread, doing: str, planned_s: float, work: Callable[[], T]
    ) -> T | None:
        """As `_attempt`; but a path that goes on answering others is out of this workload alone."""
        lacking = stage.path, workload.name

        def tried() -> T | None:
            if lacking in self._lacking:
                return None
            try:
                return work()
            except NotAnswered as error:
                measure(stage, _WARM_UP, _WARM_UP_S, None)
                self._lacking.add(lacking)
                self._record.leave_out(": ".join(lacking), str(error))
                return None

        return self._attempt(stage, doing, planned_s, tried)

    def _sample(self, stage: Stage, workload: Load | Spread, rate: float | None) -> Sample:
        if isinstance(workload, Load):
            return measure(stage, workload, self._scale.duration_s, rate)
        connecting = Load(workload.name, "crr", workload.connections, SMALL_BYTES)
        return measure(stage, connecting, self._scale.duration_s, None, stage.all)

    def _churn(self, churn: Churn, paths: Sequence[TrafficPath], make_site: MakeSite) -> None:
        """Measure paths one after the other, though they start, which takes longest, at once."""
        self._progress.show(f"{churn.name}: programming {churn.services:,} Services")
        able = [path for path in paths if path.churns]
        with ExitStack() as stack:
            for one in self._raised(stack, able, make_site, 0, others=max(0, churn.services - SERVICES)):
                stack.enter_context(named_servers(one.site.pods))
                work = partial(measure_churn, churn, one, self._scale.changes)
                measured = self._attempt(one.stage, churn.name, 0, work)
                if measured:
                    self._record.finished.append(measured)

    def _failover(self, failover: Failover, paths: Sequence[TrafficPath], make_site: MakeSite) -> None:
        """Measure all paths at once; see failover.py."""
        able = [path for path in paths if path.name != DIRECT]
        if reason := reason_impossible(failover, lab=make_site is lab_site):
            self._record.leave_out(failover.name, reason)
            return
        self._progress.show(f"{failover.name}, all paths at once")
        with ExitStack() as stack:
            found = self._raised(stack, able, make_site, PODS)
            try:
                self._record.finished += measure_failover(failover, found, self._scale.failover_s)
            except CommandFailed as error:
                self._record.fail(failover.name, str(error))
        self._progress.done(self._scale.failover_s)
