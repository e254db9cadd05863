"""From an address to the Service port behind it.

Owns what is programmed now: one `ProgrammedPort` for each Service port, and the table that
the shared listener of redirect capture looks its destinations up in. A change swaps whole
values in place; a connection that was routed before keeps what it was given.
"""

import struct
from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from itertools import chain
from random import Random
from typing import TypeVar

from uproxy.model.frontend import Backend, DesiredServicePort, Frontend, FrontendKind
from uproxy.model.names import Family, ServicePortName, Vip
from uproxy.model.options import DEFAULT_OPTIONS, Options
from uproxy.picking.backends import BackendState
from uproxy.picking.balancing.affinity import SessionAffinity
from uproxy.picking.balancing.balancer import Loads
from uproxy.picking.balancing.policies import new_balancer
from uproxy.picking.stats import PortStats
from uproxy.picking.waiting import WaitingRoom

_LOTS = Random()
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

    __slots__ = (
        "_loads",
        "balancer",
        "inside",
        "limit",
        "name",
        "options",
        "plain",
        "relay_slot",
        "room",
        "stats",
    )

    def __init__(
        self,
        name: ServicePortName,
        stats: PortStats,
        room: WaitingRoom,
        options: Options,
        loads: Loads,
        *,
        inside: "Route | None" = None,
    ) -> None:
        self.name = name
        self.inside = inside
        """Where clients on this node and in its Pods go instead; None when they go the same way."""
        self.stats = stats
        self.room = room
        self._set(options)
        self._loads = loads
        self.balancer = SessionAffinity(new_balancer(options, loads, _LOTS))
        self.relay_slot = -1
        """The relay's own number for it, when it has one."""

    def follow(self, options: Options, now_s: float) -> None:
        """New connections are treated as `options` say, and open ones where that makes sense."""
        before = self.options
        self._set(options)
        if (options.balancing, options.slow_start_s) != (before.balancing, before.slow_start_s):
            self.balancer.follow(new_balancer(options, self._loads, _LOTS), now_s)

    def _set(self, options: Options) -> None:
        self.options = options
        self.limit = options.max_connections_per_endpoint
        """How many connections each backend may have; None for any number."""
        self.plain = self.limit is None and not options.proxy_protocol
        """Whether connections ask for nothing but a backend."""

    def is_alone(self, state: BackendState, now_s: float, tried: Collection[BackendState] = ()) -> bool:
        """Whether a dial of `state` has nobody to go on to, and is not likely to fail: it may take longer."""
        backends = self.balancer.backends
        if len(backends) > len(tried) + 1 or state.sits_out_until_s > now_s:
            return False
        return all(one is state or one in tried for one in backends)

    def pick(self, client: str, now_s: float, tried: Collection[BackendState] = ()) -> BackendState | None:
        """The backend for a new connection of `client`, none of those it `tried` already; None when there is
        none, or none has a place."""
        if self.limit is None:
            return self.balancer.pick(client, now_s, tried)
        backends, limit = self.balancer.backends, self.limit
        loads = self._loads(backends)
        full = [state for state, load in zip(backends, loads, strict=True) if load >= limit]
        state = self.balancer.pick(client, now_s, {*tried, *full})
        if state is not None and state.sits_out_until_s > now_s:
            # Rather wait for one that is well than dial one that is not.
            well = any(other.sits_out_until_s <= now_s and other not in tried for other in full)
            return None if well else state
        return state


class ProgrammedPort:
    """One Service port as it is programmed: routes, backends and counts."""

    def __init__(self, desired: DesiredServicePort, loads: Loads, now_s: float) -> None:
        """`loads` tells how busy its backends are."""
        self._loads = loads
        self._departed: dict[Backend, BackendState] = {}
        self.stats = PortStats()
        self.room = WaitingRoom()
        self.states: dict[Backend, BackendState] = {}
        self.removed_since_s: dict[BackendState, float] = {}
        """Endpoints that are no longer listed, or have ended, while they still have connections."""
        self.listening: set[Vip] = set()
        """Addresses on which a listener was opened for this Service port."""
        self._routes: dict[tuple[Family, Reach], Route] = {}
        self.update(desired, now_s)

    @property
    def routes(self) -> Iterable[Route]:
        """Those that its addresses have used so far."""
        return self._routes.values()

    def route(self, frontend: Frontend, now_s: float) -> Route:
        """Where clients of one address go."""
        if not frontend.local:
            return self._route(frontend.family, Reach.CLUSTER, now_s)
        is_internal = frontend.kind is FrontendKind.CLUSTER_IP
        return self._route(frontend.family, Reach.LOCAL if is_internal else Reach.LOCAL_OUTSIDE, now_s)

    def _route(self, family: Family, reach: Reach, now_s: float) -> Route:
        key = family, reach
        if key not in self._routes:
            inside = self._route(family, Reach.CLUSTER, now_s) if reach is Reach.LOCAL_OUTSIDE else None
            self._routes[key] = Route(
                self.desired.name, self.stats, self.room, self.desired.options, self._loads, inside=inside
            )
            self._lead(key, now_s)
        return self._routes[key]

    def _lead(self, key: tuple[Family, Reach], now_s: float) -> None:
        family, reach = key
        desired, route = self.desired, self._routes[key]
        usable = desired.usable if reach is Reach.CLUSTER else desired.local
        chosen = tuple(self.states[backend] for backend in usable.get(family, ()))
        route.follow(desired.options, now_s)
        route.balancer.replace(chosen, desired.affinity_timeout_s, now_s)

    def update(self, desired: DesiredServicePort, now_s: float) -> None:
        """Route new connections as `desired` says; states of backends that stay are kept."""
        self.desired = desired
        states = self.states
        self.states = {
            backend: states.get(backend) or self._returned(backend) for backend in desired.endpoints
        }
        self._note_removed(states, now_s)
        usable = {*chain.from_iterable((*desired.usable.values(), *desired.local.values()))}
        for backend, state in self.states.items():
            state.usable = backend in usable
        for backend in states.keys() - self.states.keys():
            states[backend].usable = False
        for key in self._routes:
            self._lead(key, now_s)

    def _returned(self, backend: Backend) -> BackendState:
        """A backend that is listed now: a new one, or one that has come back to its connections."""
        state = self._departed.pop(backend, None) or BackendState(backend)
        state.answered()
        return state

    def _note_removed(self, before: Mapping[Backend, BackendState], now_s: float) -> None:
        gone = [state for backend, state in before.items() if backend not in self.states]
        gone += self._departed.values()
        busy = [state for state, load in zip(gone, self._loads(gone), strict=True) if load] if gone else []
        self._departed = {state.backend: state for state in busy}
        ended = [self.states[backend] for backend in self.desired.gone]
        since_s = self.removed_since_s
        self.removed_since_s = {state: since_s.get(state, now_s) for state in (*busy, *ended)}

    def retire(self, now_s: float) -> None:
        """The Service port is gone: no backend takes anything new."""
        for state in self.states.values():
            state.usable = False
        for route in self.routes:
            route.follow(DEFAULT_OPTIONS, now_s)
            route.balancer.replace((), None, now_s)
        self.room.serve(now_s)


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
