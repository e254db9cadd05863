"""The relay that needs no compiler: connections as objects, in the event loop's thread."""

import socket
from collections.abc import Callable, Sequence

from uproxy.dataplane.arriving.original_destination import original_destination
from uproxy.dataplane.context import Context
from uproxy.dataplane.dial.sockets import close_with_reset
from uproxy.dataplane.dial.source_ports import SourcePorts
from uproxy.dataplane.relay.connection import Connection, Connections
from uproxy.dataplane.relay.pipes import Pipes
from uproxy.dataplane.relay.sweeper import Sweeper
from uproxy.dataplane.relays import Ended
from uproxy.model.closing import CloseReason
from uproxy.model.names import Family
from uproxy.picking.backends import BackendState
from uproxy.picking.routes import Route


class PythonArrival:
    """A client's socket, not yet a connection."""

    __slots__ = ("_client", "_destination", "_shared", "address")

    def __init__(self, shared: Connections, client: socket.socket, address: str) -> None:
        self._shared = shared
        self._client = client
        self.address = address
        self._destination: bytes | None = None

    def destination(self, family: Family) -> bytes | None:
        """Where it was going before the kernel redirected it."""
        self._destination = original_destination(self._client, family)
        return self._destination

    def begin(self, route: Route) -> None:
        """Dial one of the route's endpoints, and relay."""
        Connection(self._shared, route, self._client, self.address, self._destination)

    def refuse(self) -> None:
        """Close; the client sees a reset."""
        close_with_reset(self._client)


class PythonRelay:
    """Every connection, and the clock that all of them share."""

    name = "python"

    def __init__(self, context: Context, ended: Callable[[Ended], None] | None = None) -> None:
        self.pipes = Pipes(context.descriptors)
        self.live: dict[Connection, None] = {}
        self._shared = Connections(context, self.pipes, SourcePorts(), self.live, ended)
        self._sweeper = Sweeper(context, self.live)

    @property
    def open_connections(self) -> int:
        """Connections that have begun and not ended."""
        return len(self.live)

    def accept(self, listener: socket.socket) -> PythonArrival | None:
        """Accept one client; None when nobody waits. Raises OSError as accept(2) does."""
        try:
            client, address = listener.accept()
        except BlockingIOError:
            return None
        client.setblocking(False)
        return PythonArrival(self._shared, client, address[0])

    def loads(self, states: Sequence[BackendState]) -> Sequence[int]:
        """How many connections each of some backends has now, dials under way included."""
        return [state.taken for state in states]

    def configure(self, route: Route) -> None:
        """Look at connections as often as the age that they may have asks for. Everything else is looked up
        when it matters."""
        self._sweeper.note_age(route, route.options.max_connection_age_s)

    def collect(self) -> None:
        """Count the bytes of open connections; everything else is counted as it happens."""
        for connection in self.live:
            connection.count_bytes()

    def reset(self, reason: CloseReason, state: BackendState | None = None) -> None:
        """End every connection, or every one to a backend."""
        if state is not None:
            for connection in [one for one in self.live if one.has(state)]:
                connection.reset(reason)
            return
        # Those without an endpoint first, or they would get the places of those that end.
        for connection in sorted(self.live, key=lambda one: one.pair is not None):
            connection.reset(reason)

    def close(self) -> None:
        """Reset what is still open, stop the clock, and close the pipes."""
        self.reset(CloseReason.SHUTDOWN)
        self.pipes.close()
        self._sweeper.close()
