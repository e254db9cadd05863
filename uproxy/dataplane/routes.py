"""From an address to the Service port behind it.

Owns what is programmed now: one `ProgrammedPort` for each Service port, and the table that
the shared listener of redirect capture looks its destinations up in. A change swaps whole
values in place; a connection that was routed before keeps what it was given.
"""

import random
import struct
from collections.abc import Iterable
from enum import Enum
from typing import TypeVar

from uproxy.dataplane.backends import BackendState
from uproxy.dataplane.balancing import RoundRobin
from uproxy.dataplane.stats import PortStats
from uproxy.model.frontend import Backend, DesiredServicePort, Frontend, FrontendKind
from uproxy.model.names import Family, ServicePortName, Vip

K = TypeVar("K")


class Reach(Enum):
    """Which endpoints a route leads to."""

    CLUSTER = "cluster"
    LOCAL = "local"
    """Those on this node."""
    LOCAL_OUTSIDE = "local-outside"
    """The same, for clients from outside; those inside are led to all of the cluster."""


class Route:
    """Where connections to one Service port go, for one family of endpoints."""

    __slots__ = ("balancer", "inside", "name", "relay_slot", "stats")

    def __init__(self, name: ServicePortName, stats: PortStats, inside: "Route | None" = None) -> None:
        self.name = name
        self.inside = inside
        """Where clients on this node and in its Pods go instead; None when they go the same way."""
        self.stats = stats
        self.balancer = RoundRobin(random.randrange(1 << 16))
        self.relay_slot = -1
        """The relay's own number for it, when it has one."""


class ProgrammedPort:
    """One Service port as it is programmed: routes, backends and counts."""

    def __init__(self, desired: DesiredServicePort) -> None:
        self.stats = PortStats()
        self.states: dict[Backend, BackendState] = {}
        self.listening: set[Vip] = set()
        """Addresses on which a listener was opened for this Service port."""
        self._routes: dict[tuple[Family, Reach], Route] = {}
        self.update(desired)

    def route(self, frontend: Frontend) -> Route:
        """Where clients of one address go."""
        if not frontend.local:
            return self._route(frontend.family, Reach.CLUSTER)
        is_internal = frontend.kind is FrontendKind.CLUSTER_IP
        return self._route(frontend.family, Reach.LOCAL if is_internal else Reach.LOCAL_OUTSIDE)

    def _route(self, family: Family, reach: Reach) -> Route:
        key = family, reach
        if key not in self._routes:
            inside = self._route(family, Reach.CLUSTER) if reach is Reach.LOCAL_OUTSIDE else None
            self._routes[key] = Route(self.desired.name, self.stats, inside)
            self._lead(key)
        return self._routes[key]

    def _lead(self, key: tuple[Family, Reach]) -> None:
        family, reach = key
        usable = self.desired.usable if reach is Reach.CLUSTER else self.desired.local
        chosen = tuple(self.states[backend] for backend in usable.get(family, ()))
        self._routes[key].balancer.replace(chosen, self.desired.affinity_timeout_s)

    def update(self, desired: DesiredServicePort) -> None:
        """Route new connections as `desired` says; states of backends that stay are kept."""
        self.desired = desired
        states = self.states
        self.states = {backend: states.get(backend) or BackendState(backend) for backend in desired.endpoints}
        lists = (*desired.usable.values(), *desired.local.values())
        usable = {backend for backends in lists for backend in backends}
        for backend, state in (states | self.states).items():
            state.usable = backend in usable
        for key in self._routes:
            self._lead(key)

    def retire(self) -> None:
        """The Service port is gone: no backend takes anything new."""
        for state in self.states.values():
            state.usable = False
        for route in self._routes.values():
            route.balancer.replace((), None)


class RoutingTable:
    """TCP destinations as the kernel reports them (SO_ORIGINAL_DST), to routes."""

    def __init__(self) -> None:
        self._by_address: dict[bytes, Route] = {}
        self._by_node_port: dict[tuple[Family, bytes], Route] = {}

    def find(self, family: Family, destination: bytes) -> Route | None:
        """The route for port + address, in network order; an exact VIP goes before a NodePort."""
        return self._by_address.get(destination) or self._by_node_port.get((family, destination[:2]))

    def set(self, vip: Vip, route: Route) -> None:
        """Lead `vip` to `route`."""
        port = struct.pack("!H", vip.port)
        if vip.is_node_port:
            self._by_node_port[vip.family, port] = route
        else:
            self._by_address[port + vip.ip.packed] = route

    def remove(self, vips: Iterable[Vip], name: ServicePortName) -> None:
        """Forget those of `vips` that still lead to the Service port `name`."""
        for vip in vips:
            port = struct.pack("!H", vip.port)
            if vip.is_node_port:
                _drop(self._by_node_port, (vip.family, port), name)
            else:
                _drop(self._by_address, port + vip.ip.packed, name)


def _drop(table: dict[K, Route], key: K, name: ServicePortName) -> None:
    route = table.get(key)
    if route is not None and route.name == name:
        del table[key]
