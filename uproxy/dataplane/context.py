"""What everything in the data plane of one proxy shares."""

from asyncio import AbstractEventLoop
from collections.abc import Callable
from dataclasses import dataclass, field

from uproxy.dataplane.arriving.insiders import Insiders
from uproxy.dataplane.descriptors import Descriptors
from uproxy.dataplane.dial.ways_back import WaysBack
from uproxy.dataplane.reactor import Reactor


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long things may take, in seconds."""

    connect_s: float
    """One dial of one endpoint."""
    dial_budget_s: float
    """All dials of one connection."""
    idle_s: float
    """No byte in either direction."""
    half_closed_s: float
    """The same, after one side has finished sending."""


@dataclass(slots=True)
class Overlap:
    """While one process takes over from another, both listen on the same addresses."""

    lasts: bool = False


@dataclass(frozen=True, slots=True)
class Context:
    """Loop, clock, limits, and the options that sockets are made with."""

    loop: AbstractEventLoop
    reactor: Reactor
    descriptors: Descriptors
    timeouts: Timeouts
    mark: int
    """SO_MARK of dials; 0 sets none."""
    node_ports_on_loopback: bool
    """Whether UDP NodePorts answer on loopback addresses too. TCP ones are the kernel's to steer."""
    now: Callable[[], float]
    foreign: bool = False
    """Whether sockets may be bound to addresses that are not this node's."""
    insiders: Insiders = field(default_factory=Insiders)
    overlap: Overlap = field(default_factory=Overlap)
    ways_back: WaysBack | None = None
    """Tells where endpoints may be dialled from the client's own address. None: nowhere."""

    def close(self) -> None:
        """Close what it opened."""
        self.reactor.close()
        if self.ways_back is not None:
            self.ways_back.close()

    def keeps_address(self, client: str, endpoint: str) -> bool:
        """Whether `endpoint` is to see the client's own address."""
        return self.ways_back is not None and self.ways_back.lead_here(client, endpoint)

    def dial_timed_out(self, endpoint: str) -> None:
        """A dial of `endpoint` timed out."""
        if self.ways_back is not None:
            self.ways_back.doubt(endpoint)
