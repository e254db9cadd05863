"""What is kept of a Service port whoever carries it, so that nobody notices a move: counts, and its clients.

Owns adding what the kernel carried to `PortStats` and `BackendState`, and telling affinity. Refuses to
know who carries what.
"""

from collections.abc import Callable, Collection, Iterator, Mapping

from uproxy.dataplane.relays import Relay
from uproxy.model.affinity import Pinned
from uproxy.model.frontend import Backend
from uproxy.model.names import Protocol, ServicePortName
from uproxy.picking.routes import ProgrammedPort


class Ledger:
    """Of every programmed Service port."""

    def __init__(
        self, ports: Mapping[ServicePortName, ProgrammedPort], relay: Relay, now: Callable[[], float]
    ) -> None:
        self._ports = ports
        self._relay = relay
        self._now = now

    def totals(self) -> Iterator[tuple[ServicePortName, int, int]]:
        """Connections (or flows) and bytes so far, on both paths, of each Service port that had any."""
        self._relay.collect()
        for name, programmed in list(self._ports.items()):
            stats = programmed.stats
            count = stats.connections + stats.flows
            if count:
                yield name, count, stats.bytes_to_backend + stats.bytes_to_client

    def add(
        self, name: ServicePortName, backend: Backend, connections: int, to_backend: int, to_client: int
    ) -> None:
        """What the kernel carried more than was told before."""
        programmed = self._ports.get(name)
        if programmed is None:
            return
        stats = programmed.stats
        if name.protocol is Protocol.UDP:
            stats.flows += connections
        else:
            stats.connections += connections
        stats.bytes_to_backend += to_backend
        stats.bytes_to_client += to_client
        state = programmed.states.get(backend)
        if state is not None:
            state.connections += connections

    def in_kernel(self, name: ServicePortName, count: int) -> None:
        """How many connections, or flows, the kernel has now."""
        programmed = self._ports.get(name)
        if programmed is not None:
            programmed.stats.in_kernel = count

    def pinned(self, name: ServicePortName) -> list[Pinned]:
        """The clients that the relay keeps at their endpoints."""
        programmed = self._ports.get(name)
        routes = programmed.routes if programmed is not None else ()
        return [one for route in routes for one in route.balancer.pinned(self._now())]

    def pin(self, name: ServicePortName, clients: Collection[Pinned]) -> None:
        """Have the relay keep these, wherever an address leads to their endpoint."""
        programmed = self._ports.get(name)
        for route in programmed.routes if programmed is not None else ():
            route.balancer.pin(clients, self._now())
