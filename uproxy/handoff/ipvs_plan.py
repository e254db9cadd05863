"""What virtual servers there shall be, as values. Pure.

Owns the commands that lead from one shape of a virtual server to another, and which addresses a Service port
claims. Refuses to send anything, and to know what is programmed (`ipvs.py`).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from uproxy.handoff.plan import KernelPort
from uproxy.kernel.ipvs import (
    Command,
    Server,
    Traffic,
    delete_dest,
    delete_server,
    new_dest,
    new_server,
    set_dest,
    set_server,
)
from uproxy.model.frontend import Backend
from uproxy.model.names import IPAddress, ServicePortName, Vip


@dataclass(frozen=True, slots=True)
class Shape:
    """A virtual server as it is programmed, or shall be."""

    server: Server
    weights: Mapping[Backend, int]


def changes(vip: Vip, before: Shape | None, now: Shape | None) -> list[Command]:
    """What leads from one to the other. What is added comes first: nobody is refused in between."""
    if now is None:
        return [] if before is None else [delete_server(vip)]
    commands = []
    if before is None:
        commands.append(new_server(vip, now.server))
    elif before.server != now.server:
        commands.append(set_server(vip, now.server))
    old = before.weights if before is not None else {}
    commands += [new_dest(vip, one, weight) for one, weight in now.weights.items() if one not in old]
    commands += [
        set_dest(vip, one, weight) for one, weight in now.weights.items() if old.get(one, weight) != weight
    ]
    commands += [delete_dest(vip, one) for one in old if one not in now.weights]
    return commands


class Claim(NamedTuple):
    """What a Service port wants of an address."""

    name: ServicePortName
    server: Server
    backends: tuple[Backend, ...]
    expanded: bool
    """It is a NodePort, for which others go before, as where capture looks addresses up."""


@dataclass(slots=True)
class Change:
    """What `put` is to do with the virtual servers, all of them."""

    shapes: dict[Vip, Shape | None] = field(default_factory=dict)
    owners: dict[Vip, ServicePortName] = field(default_factory=dict)
    """Of those that lead."""
    enter: list[Vip] = field(default_factory=list)
    leave: list[Vip] = field(default_factory=list)
    begins: list[tuple[Vip, Backend, Traffic]] = field(default_factory=list)
    """What new destinations had counted already."""
    ends: list[tuple[Vip, Backend, Traffic]] = field(default_factory=list)
    """The last counters of those that go."""


def claims(port: KernelPort, addresses: Iterable[IPAddress]) -> Iterator[tuple[Vip, Claim]]:
    """Its addresses; a NodePort is on every address of the node, but for those that it has itself."""
    server = Server(port.scheduler, port.affinity_timeout_s)
    for its in sorted(port.vips, key=lambda one: not one.vip.is_node_port):
        ips = addresses if its.vip.is_node_port else (its.vip.ip,)
        for ip in ips:
            if ip.version == its.vip.family:
                yield its.vip._replace(ip=ip), Claim(port.name, server, its.backends, its.vip.is_node_port)
