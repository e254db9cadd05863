"""Listening sockets: accept in batches, find the route, start the connection.

Owns the accept path. It never waits and never dies of the network or of the machine: what accept(2)
tells to ignore is ignored, and anything else, like running out of descriptors, pauses it.
"""

import errno

from uproxy.dataplane.arriving.guard import Guard, set_guard
from uproxy.dataplane.context import Context
from uproxy.dataplane.dial.sockets import is_bug, listen_tcp, share
from uproxy.dataplane.relays import Arrival, Relay
from uproxy.model.names import Family, IPAddress
from uproxy.picking.routes import Route, RoutingTable

_BATCH = 64

# accept(2): already pending network errors of the new socket, to be treated like EAGAIN.
_IGNORED = frozenset(
    (
        errno.ECONNABORTED,
        errno.ENETDOWN,
        errno.EPROTO,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.ENONET,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
        errno.ENETUNREACH,
        errno.EPERM,
    )
)


class TcpListener:
    """A listener on one address. Subclasses say which route a client takes."""

    def __init__(self, context: Context, relay: Relay, ip: IPAddress, port: int) -> None:
        self._context = context
        self._relay = relay
        self._socket = listen_tcp(
            ip,
            port,
            beside_another=context.overlap.lasts,
            foreign=context.foreign and not ip.is_unspecified,
        )
        self.family: Family = ip.version
        self.port = int(self._socket.getsockname()[1])
        try:
            context.reactor.watch(self._socket.fileno(), self)
        except OSError:
            self._socket.close()
            raise
        context.descriptors.used += 1

    def on_events(self, _events: int) -> None:
        """Clients wait."""
        self.accept()

    def pump(self) -> None:
        """Clients still wait after a full batch."""
        self.accept()

    def accept(self) -> None:
        """Accept until nobody waits, the batch is full or the descriptors run out."""
        context = self._context
        descriptors = context.descriptors
        for _ in range(_BATCH):
            if self._socket.fileno() < 0:
                return
            if descriptors.scarce:
                descriptors.wait(self)
                return
            try:
                arrival = self._relay.accept(self._socket)
            except OSError as error:
                if is_bug(error):
                    raise
                if error.errno in _IGNORED:
                    continue
                descriptors.wait(self)
                return
            if arrival is None:
                return
            self._lead(arrival)
        context.reactor.later(self)

    def _lead(self, arrival: Arrival) -> None:
        raise NotImplementedError

    def _begin(self, arrival: Arrival, route: Route) -> None:
        if route.inside is not None and self._context.insiders.has(arrival.address):
            route = route.inside
        arrival.begin(route)

    def share(self, *, on: bool) -> None:
        """Let a process that takes over listen here too, or no longer."""
        share(self._socket, on=on)

    def close(self) -> None:
        """Stop listening; who waits in the backlog is refused."""
        self._context.reactor.forget(self._socket.fileno())
        self._context.descriptors.forget(self)
        self._context.descriptors.released(1)
        self._socket.close()


class VipListener(TcpListener):
    """Listens on a VIP itself; all its clients take one route, which may be swapped."""

    def __init__(self, context: Context, relay: Relay, ip: IPAddress, port: int, route: Route) -> None:
        super().__init__(context, relay, ip, port)
        self.route = route
        self.guard = Guard()

    def set_guard(self, guard: Guard) -> None:
        """Keep out whom `guard` does not let in. Raises OSError."""
        if guard != self.guard or guard.inside_only:
            set_guard(self._socket, self.family, guard, self._context.insiders.networks)
            self.guard = guard

    def _lead(self, arrival: Arrival) -> None:
        self._begin(arrival, self.route)


class RedirectListener(TcpListener):
    """Takes what the kernel redirects, on a port that it chooses; the route is in the table."""

    def __init__(self, context: Context, relay: Relay, any_ip: IPAddress, table: RoutingTable) -> None:
        super().__init__(context, relay, any_ip, 0)
        self._table = table
        self.strangers = 0
        """Connections that were meant for no Service of ours."""

    def _lead(self, arrival: Arrival) -> None:
        destination = arrival.destination(self.family)
        route = self._table.find(self.family, destination) if destination is not None else None
        if route is None:
            self.strangers += 1
            arrival.refuse()
        else:
            self._begin(arrival, route)
