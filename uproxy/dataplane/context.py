"""What everything in the data plane of one proxy shares."""

from asyncio import AbstractEventLoop
from collections.abc import Callable
from dataclasses import dataclass, field

from uproxy.dataplane.descriptors import Descriptors
from uproxy.dataplane.insiders import Insiders
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
    insiders: Insiders = field(default_factory=Insiders)
