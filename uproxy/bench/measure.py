"""One measurement of one workload over one path: what came of it, and who spent what on it.

Owns placing programs, and reading clocks around the generator's run. Refuses to compare.
"""

import os
import time
from dataclasses import dataclass
from typing import Self

from uproxy.bench.costs import CpuTime, MachineTime, Ticks, cpu_ticks, kernel_threads, machine_time
from uproxy.bench.load.plan import LoadOutcome, LoadPlan
from uproxy.bench.paths import Address
from uproxy.bench.placement import place
from uproxy.bench.stages import Stage
from uproxy.bench.workloads import Load

TIMEOUT_S = 2.0
"""An operation that waits longer is an error. Nothing here takes as long unless it went wrong."""
_LONGEST_WARM_UP_S = 0.1
_KERNEL_THREADS = kernel_threads()


@dataclass(frozen=True, slots=True)
class Sample:
    """One round. CPU times are of the proxy's and the servers' programs; the client's is in the outcome."""

    outcome: LoadOutcome
    rate_per_s: float | None
    proxy: CpuTime
    server: CpuTime
    stolen_share: float
    """Of one CPU: what the hypervisor took."""
    others_share: float
    """Of one CPU: what programs that are no part of this took; 0 when a target may be one of them."""

    @property
    def ops_per_s(self) -> float:
        """Operations a second; bytes for streams."""
        return self.outcome.operations / self.outcome.elapsed_s if self.outcome.elapsed_s else 0.0

    @property
    def client(self) -> CpuTime:
        """The generator's own."""
        return CpuTime(self.outcome.generator_user_s, self.outcome.generator_system_s)


def load_plan(load: Load, address: Address, duration_s: float, rate_per_s: float | None) -> LoadPlan:
    """Say to the generator what a workload asks for."""
    return LoadPlan(
        workload=load.kind,
        host=address.ip,
        port=address.port,
        connections=load.connections,
        message_bytes=load.message_bytes,
        rate_per_s=rate_per_s,
        duration_s=duration_s,
        warmup_s=min(_LONGEST_WARM_UP_S, duration_s / 4),
        timeout_s=TIMEOUT_S,
    )


def measure(
    stage: Stage, load: Load, duration_s: float, rate_per_s: float | None, address: Address | None = None
) -> Sample:
    """Apply a workload once. Raises CommandFailed when a program of the path has ended."""
    plan = load_plan(load, address or stage.one, duration_s, rate_per_s)
    place(stage.generator.pid, stage.proxy_pids, stage.server_pids, apart=not load.is_stream)
    before = _Clocks.read(stage)
    outcome = stage.generator.run(plan)
    now = _Clocks.read(stage)
    proxy, server = now.proxy.since(before.proxy), now.server.since(before.server)
    wall_s = now.wall_s - before.wall_s
    client = now.generator.since(before.generator)
    ours_s = client.total_s + proxy.total_s + server.total_s + now.own_s - before.own_s
    busy_s = now.machine.busy_s - before.machine.busy_s
    # The programs worked through the warm-up too, the operations are of the measured time.
    measured = outcome.elapsed_s / (plan.warmup_s + outcome.elapsed_s) if outcome.elapsed_s else 0.0
    return Sample(
        outcome=outcome,
        rate_per_s=rate_per_s,
        proxy=proxy.scaled(measured),
        server=server.scaled(measured),
        stolen_share=(now.machine.stolen_s - before.machine.stolen_s) / wall_s,
        others_share=max(0.0, busy_s - ours_s) / wall_s if stage.servers else 0.0,
    )


@dataclass(frozen=True, slots=True)
class _Clocks:
    """Everything that is read before and after."""

    wall_s: float
    generator: Ticks
    """With the kernel's own work for packets, which is nobody else's here."""
    proxy: Ticks
    server: Ticks
    own_s: float
    """CPU of this process."""
    machine: MachineTime

    @classmethod
    def read(cls, stage: Stage) -> Self:
        own = os.times()
        return cls(
            time.perf_counter(),
            cpu_ticks([stage.generator.pid, *_KERNEL_THREADS]),
            cpu_ticks(stage.proxy_pids),
            cpu_ticks(stage.server_pids),
            own.user + own.system,
            machine_time(),
        )
