"""What a connection costs while nothing happens on it: user memory of the proxy, kernel memory.

Owns when to look: before the first connection, and when all have been opened. Each has had one
exchange by then, so what a connection needs to work is part of it.
"""

from dataclasses import dataclass
from typing import Self

from uproxy.bench.costs import rss_bytes, socket_memory_bytes, sockets_in_use
from uproxy.bench.load.plan import LoadPlan
from uproxy.bench.programs import wait_until
from uproxy.bench.results import Measurement
from uproxy.bench.stages import Stage
from uproxy.bench.workloads import Idle

_HELD_S = 0.2
_PER_CONNECTION_S = 0.0005
"""Time to open them all, generously."""
_SETTLED = 10
"""Polls in a row, 5 ms apart, that find as many sockets as before."""


def measure_idle(stage: Stage, idle: Idle) -> Measurement:
    """Hold connections over one path. Raises CommandFailed when they cannot be opened."""
    plan = LoadPlan(
        workload="idle",
        host=stage.one.ip,
        port=stage.one.port,
        connections=idle.connections,
        duration_s=_HELD_S + idle.connections * _PER_CONNECTION_S,
        warmup_s=0,
    )
    wanted = sockets_in_use(stage.servers[0].pid) + idle.connections
    before = _Memory.read(stage)
    stage.generator.begin(plan)
    _wait_for_all(stage, wanted)
    held = _Memory.read(stage)
    outcome = stage.generator.outcome()
    errors = sum(outcome.errors_by_kind.values()) + idle.connections - outcome.held
    return Measurement(
        path=stage.path,
        workload=idle.name,
        rounds=1,
        ops_per_s=outcome.held,
        ops_per_s_by_round=[outcome.held],
        errors=errors,
        errors_by_kind=outcome.errors_by_kind,
        rss_bytes_per_connection=_each(before.rss, held.rss, idle) if stage.proxy else None,
        kernel_bytes_per_connection=_each(before.kernel, held.kernel, idle),
        warnings=[f"{errors:,} of {idle.connections:,} connections did not live to the end"]
        if errors
        else [],
    )


@dataclass(frozen=True, slots=True)
class _Memory:
    rss: int
    """Of the proxy."""
    kernel: int | None

    @classmethod
    def read(cls, stage: Stage) -> Self:
        everybody = [stage.generator.pid, *stage.proxy_pids, *stage.server_pids]
        return cls(rss_bytes(stage.proxy_pids), socket_memory_bytes(everybody))


def _each(before: int | None, held: int | None, idle: Idle) -> float | None:
    return None if before is None or held is None else (held - before) / idle.connections


def _wait_for_all(stage: Stage, wanted: int) -> None:
    counts: list[int] = []

    def settled() -> bool:
        counts.append(sockets_in_use(stage.servers[0].pid))
        latest = counts[-_SETTLED:]
        stable = len(latest) == _SETTLED and len(set(latest)) == 1
        return stage.generator.has_answered() or (stable and latest[-1] >= wanted)

    wait_until(settled, f"{stage.path}: all idle connections")
