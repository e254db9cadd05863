"""One of three pods stops answering, and nobody has told the proxy: what do clients see?

The endpoint stays listed, as it does in a cluster until readiness probes have failed. New
connections keep coming, at a fixed rate and with one exchange each. All paths are measured at
once: this is about errors and stalls, not speed, and the load is light. Every fault has paths
of its own, since a proxy remembers the last one.
"""

import time
from collections.abc import Sequence
from functools import partial

from uproxy.bench.costs import connections_taken
from uproxy.bench.latency import Latencies
from uproxy.bench.load.plan import LoadOutcome, LoadPlan
from uproxy.bench.programs import wait_until
from uproxy.bench.results import Measurement
from uproxy.bench.sites import program
from uproxy.bench.stages import Rising
from uproxy.bench.stats import spread
from uproxy.bench.workloads import Failover
from uproxy.errors import CommandFailed
from uproxy.kit.commands import find_program

RATE_PER_S = 150.0
TIMEOUT_S = 3.0
"""A client waits so long; every proxy here gives an endpoint 2 s."""
_CONNECTIONS = 300
"""As many may wait at once: a pod that swallows packets holds a third of all for seconds."""
_BEFORE_S = 0.5
_VICTIM = 2
_DROP = """\
table ip bench_fault {
chain everything {
type filter hook input priority 0; policy drop;
}
}
"""


def reason_impossible(failover: Failover, *, lab: bool) -> str | None:
    """Why a fault cannot be made on this machine; None when it can."""
    if failover.fault == "kill":
        return None
    if not lab:
        return "dropping packets needs network namespaces"
    return None if find_program("nft") else "dropping packets needs nft (apt-get install nftables)"


def measure_failover(failover: Failover, paths: Sequence[Rising], duration_s: float) -> list[Measurement]:
    """Make the fault on all `paths`, which are of no use afterwards. Raises CommandFailed."""
    servers = [rising.stage.servers[0].pid for rising in paths]
    before = [connections_taken(server) for server in servers]
    for rising in paths:
        rising.stage.generator.begin(_plan(rising, duration_s))
    for server, taken in zip(servers, before, strict=True):
        wait_until(partial(_more_than, server, taken), "the first connections")
    time.sleep(_BEFORE_S)
    for rising in paths:
        _make(failover, rising)
    outcomes = [rising.stage.generator.outcome() for rising in paths]
    pairs = zip(paths, outcomes, strict=True)
    return [_measurement(failover.name, rising.stage.path, outcome) for rising, outcome in pairs]


def _plan(rising: Rising, duration_s: float) -> LoadPlan:
    address = rising.stage.all
    if address is None:
        raise CommandFailed(f"{rising.stage.path}: nothing chooses between pods there")
    return LoadPlan(
        workload="crr",
        host=address.ip,
        port=address.port,
        connections=_CONNECTIONS,
        rate_per_s=RATE_PER_S,
        duration_s=duration_s,
        warmup_s=0,
        timeout_s=TIMEOUT_S,
    )


def _more_than(server: int, taken: int) -> bool:
    return connections_taken(server) > taken


def _make(failover: Failover, rising: Rising) -> None:
    if failover.fault == "kill":
        rising.stage.servers[_VICTIM].kill()
    elif rising.site.lab is not None:
        rising.site.lab.pods[_VICTIM].run(program("nft"), "-f", "-", input=_DROP)


def _measurement(workload: str, path: str, outcome: LoadOutcome) -> Measurement:
    figures = [
        Latencies.decode(text).percentiles() if text else None
        for text in (outcome.corrected, outcome.uncorrected)
    ]
    per_s = outcome.operations / outcome.elapsed_s if outcome.elapsed_s else 0.0
    waiting = f"{outcome.stuck:,} connections still waited when it ended: in the latency, not in the errors"
    return Measurement(
        path=path,
        workload=workload,
        rounds=1,
        ops_per_s=per_s,
        ops_per_s_by_round=[per_s],
        p50_us=figures[0].p50_us if figures[0] else None,
        p99_us=figures[0].p99_us if figures[0] else None,
        corrected=figures[0],
        uncorrected=figures[1],
        histogram=outcome.corrected,
        rate_per_s=RATE_PER_S,
        errors=sum(outcome.errors_by_kind.values()),
        errors_by_kind=outcome.errors_by_kind,
        spread=spread(outcome.by_endpoint),
        longest_stall_ms=outcome.longest_gap_ms,
        warnings=[waiting] if outcome.stuck else [],
    )
