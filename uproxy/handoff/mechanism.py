"""What a way to hand Services to the kernel has to be able to do.

Three have been written to it: `nftables.py`, `ipvs.py`, `iptables.py`. None of them decides anything.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from uproxy.handoff.plan import KernelPort
from uproxy.model.affinity import Pinned
from uproxy.model.frontend import Backend
from uproxy.model.names import IPNetwork, ServicePortName, Vip

Key = tuple[ServicePortName, Backend]
"""Whose counts."""
Clients = Mapping[ServicePortName, Collection[Pinned]]
"""Of Service ports with session affinity."""
NOBODY: Clients = {}


class Counts(NamedTuple):
    """What one endpoint of a Service port got in the kernel. Never falls, until `tend` says so."""

    connections: int
    bytes_to_backend: int
    """Payload, as near as the kernel's counters tell."""
    bytes_to_client: int


class Seen(NamedTuple):
    """What there is in the kernel, of ports that were put, and of those that still drain."""

    counts: Mapping[Key, Counts] = {}
    """Of endpoints that have had any traffic; of others they may be left out."""
    open: Mapping[ServicePortName, int] = {}
    """Connections, or UDP flows."""


class Mechanism(Protocol):
    """Every coroutine may raise CommandFailed."""

    name: str
    knows_clients: bool
    """Whether it can be told where clients under session affinity are to go on to, and tells it."""

    def refusal(self, port: KernelPort) -> str | None:
        """Why this one cannot carry it, in words; None when it can."""
        ...

    async def begin(self, inside: Sequence[IPNetwork]) -> None:
        """Program the constant part, empty, in the place of whatever an earlier run left: from then on
        everything new comes to the relay. Clients in `inside` count as Pods of this node."""
        ...

    async def put(self, ports: Sequence[KernelPort], clients: Clients = NOBODY) -> None:
        """Take new connections for these, in this version, from now on; `clients` go on to where they were,
        where it `knows_clients`. If it raises, nothing has changed."""
        ...

    async def clients(self, names: Collection[ServicePortName]) -> Clients:
        """Who goes where, of those that were put; nobody where it does not `knows_clients`."""
        ...

    async def take(self, names: Collection[ServicePortName]) -> None:
        """Take no new connections for these; those in the kernel finish there."""
        ...

    async def drop_flows(self, served: Mapping[ServicePortName, Collection[tuple[Vip, Backend]]]) -> None:
        """Let go of UDP flows of these ports but those from an address to an endpoint that are `served`, also
        where a port still drains. Ports that are unknown here are passed over."""
        ...

    async def tend(self) -> Collection[Key]:
        """Remove what has drained; returns whose counts begin at nothing when they come back. Called every
        second or so, after `look`."""
        ...

    async def look(self) -> Seen:
        """See what it has had so far, and has now."""
        ...

    async def lost(self) -> str | None:
        """What is not in the kernel any more that was programmed, in words; None when all is there. Called
        after `begin`, and then now and again."""
        ...

    async def close(self) -> None:
        """Remove everything, of earlier runs too."""
        ...
