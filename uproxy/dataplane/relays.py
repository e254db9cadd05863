"""What a relay is: it accepts clients, dials endpoints for them, and carries their bytes.

Two implementations: `python_relay.py` needs no compiler; `native_relay.py` relays in threads of
its own, without the GIL. Both leave every decision to the same Python: the route, the
balancer's pick, what a failed dial means (`picking/attempts.py`). The same tests run on both.
"""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from uproxy.model.closing import CloseReason
from uproxy.model.frontend import Backend
from uproxy.model.names import Family, ServicePortName
from uproxy.picking.backends import BackendState
from uproxy.picking.routes import Route


class Arrival(Protocol):
    """A client that was accepted, and waits to be led somewhere. One of `begin` and `refuse` is
    called, once."""

    @property
    def address(self) -> str:
        """The client's."""
        ...

    def destination(self, family: Family) -> bytes | None:
        """Where it was going before the kernel redirected it (`original_destination.py`)."""
        ...

    def begin(self, route: Route) -> None:
        """Dial one of the route's endpoints, and relay."""
        ...

    def refuse(self) -> None:
        """Close; the client sees a reset."""
        ...


class Relay(Protocol):
    """Carries connections."""

    @property
    def name(self) -> str:
        """`python` or `native`."""
        ...

    @property
    def open_connections(self) -> int:
        """Connections that have begun and not ended."""
        ...

    def accept(self, listener: socket.socket) -> Arrival | None:
        """Accept one client of a non-blocking listener; None when nobody waits.

        Raises OSError as accept(2) does.
        """
        ...

    def loads(self, states: Sequence[BackendState]) -> Sequence[int]:
        """How many connections each of some backends has at this moment, dials under way included."""
        ...

    def configure(self, route: Route) -> None:
        """A Service asks for something else (`Route.options`), for its open connections too."""
        ...

    def collect(self) -> None:
        """Bring the counts of `PortStats` and `BackendState` up to date, open connections included."""
        ...

    def reset(self, reason: CloseReason, state: BackendState | None = None) -> None:
        """End at once every connection, or every one to a backend; both peers see a reset."""
        ...

    def close(self) -> None:
        """Reset what is still open, as `SHUTDOWN`, and release everything."""
        ...


@dataclass(frozen=True, slots=True)
class Ended:
    """One connection that is over, for the access log."""

    service_port: ServicePortName
    client: str
    backend: Backend | None
    """None when none was reached."""
    bytes_to_backend: int
    bytes_to_client: int
    duration_s: float
    reason: CloseReason
