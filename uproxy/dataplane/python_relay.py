"""The relay that needs no compiler: connections as objects, in the event loop's thread."""

import socket
from collections.abc import Callable

from uproxy.dataplane.backends import BackendState
from uproxy.dataplane.connection import Connection, Connections
from uproxy.dataplane.context import Context
from uproxy.dataplane.original_destination import original_destination
from uproxy.dataplane.pipes import Pipes
from uproxy.dataplane.relay import Ended
from uproxy.dataplane.routes import Route
from uproxy.dataplane.sockets import close_with_reset
from uproxy.dataplane.source_ports import SourcePorts
from uproxy.dataplane.sweeper import Sweeper
from uproxy.model.closing import CloseReason
from uproxy.model.names import Family


class PythonArrival:
    """A client's socket, not yet a connection."""

    __slots__ = ("_client", "_shared", "address")

    def __init__(self, shared: Connections, client: socket.socket, address: str) -> None:
        self._shared = shared
        self._client = client
        self.address = address

    def destination(self, family: Family) -> bytes | None:
        """Where it was going before the kernel redirected it."""
        return original_destination(self._client, family)

    def begin(self, route: Route) -> None:
        """Dial one of the route's endpoints, and relay."""
        Connection(self._shared, route, self._client, self.address)

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

    def collect(self) -> None:
        """Count the bytes of open connections; everything else is counted as it happens."""
        for connection in self.live:
            connection.count_bytes()

    def reset(self, reason: CloseReason, state: BackendState | None = None) -> None:
        """End every connection, or every one to a backend."""
        for connection in list(self.live):
            if state is None or connection.backend is state:
                connection.reset(reason)

    def close(self) -> None:
        """Reset what is still open, stop the clock, and close the pipes."""
        self.reset(CloseReason.SHUTDOWN)
        self.pipes.close()
        self._sweeper.close()
