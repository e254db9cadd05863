"""What the proxy serves now, as rows. Reads the proxy's tables; changes nothing."""

from collections.abc import Iterator
from itertools import chain

from uproxy.admin.endpoints import standings
from uproxy.admin.rows import Bytes, Counts, EndpointRow, ServiceRow
from uproxy.admin.status import PENDING, faults_by_service, faulty, status_of
from uproxy.dataplane.proxy import Dataplane
from uproxy.handoff.target import Carriage, KernelPaths
from uproxy.model.names import Protocol, address_text
from uproxy.model.options import asked_for
from uproxy.picking.balancing.balancer import open_flows
from uproxy.picking.routes import ProgrammedPort
from uproxy.reconcile.loop import ReconcileLoop
from uproxy.state.store import Store

_BY_RELAY = Carriage("relay")


def services_view(
    store: Store, dataplane: Dataplane, loop: ReconcileLoop, paths: KernelPaths | None = None
) -> list[ServiceRow]:
    """Every captured Service port, and every Service that exists only as a mistake, by name."""
    return list(service_rows(store, dataplane, loop, paths))


def service_rows(
    store: Store, dataplane: Dataplane, loop: ReconcileLoop, paths: KernelPaths | None = None
) -> Iterator[ServiceRow]:
    """The rows of `services_view`, one at a time, so that traffic may pass in between."""
    context = dataplane.context
    dataplane.relay.collect()
    faults = faults_by_service(chain.from_iterable(store.faults.values()), store)
    wanted = sorted(store.desired.values(), key=lambda desired: (desired.name.service, desired.port))
    for key in sorted(faults.keys() - store.services.keys()):
        yield ServiceRow(key.namespace, key.name, faulty(faults[key]))
    for desired in wanted:
        name = desired.name
        programmed = dataplane.ports.get(name)
        if programmed is None:
            yield row(ProgrammedPort(desired, open_flows, context.now()), PENDING, context.now())
            continue
        status = status_of(programmed.desired, loop.problems.get(name, {}), faults.get(name.service, ()))
        yield row(programmed, status, context.now(), paths.carriage(name) if paths is not None else _BY_RELAY)


def row(programmed: ProgrammedPort, status: str, now_s: float, carriage: Carriage = _BY_RELAY) -> ServiceRow:
    """The row of one Service port."""
    desired, stats = programmed.desired, programmed.stats
    name = desired.name
    is_udp = name.protocol is Protocol.UDP
    return ServiceRow(
        name.namespace,
        name.name,
        status,
        desired.port,
        name.port,
        name.protocol.value,
        [address_text(frontend.vip.ip, frontend.vip.port) for frontend in desired.frontends],
        path=carriage.path,
        path_reason=carriage.why,
        path_since_s=carriage.since_s,
        in_kernel=stats.in_kernel,
        connections=Counts(stats.active + (0 if is_udp else stats.in_kernel), stats.connections),
        flows=Counts(stats.flows_active + (stats.in_kernel if is_udp else 0), stats.flows),
        bytes=Bytes(stats.bytes_to_backend, stats.bytes_to_client),
        endpoints=_endpoints(programmed, now_s),
        waiting={wait.value: count for wait, count in programmed.room.numbers.items() if count},
        options=asked_for(desired.options),
    )


def _endpoints(programmed: ProgrammedPort, now_s: float) -> list[EndpointRow]:
    return [
        EndpointRow(address_text(*state.address), standing, Counts(state.active, state.connections))
        for state, standing in standings(programmed, now_s)
    ]
