"""Which of a Service port's endpoints take new connections, seen from this node.

Pure. The rules are those of kube-proxy's CategorizeEndpoints: readiness (KEP-1669), topology hints
(KEP-2433, KEP-3015, KEP-4444), Local traffic policies (KEP-2086); docs/semantics.md lists them with
their tests.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from uproxy.model.endpoint import Endpoint
from uproxy.model.frontend import Backend, EndpointState
from uproxy.model.names import Family
from uproxy.state.selection import state_of

_FAMILIES: tuple[Family, ...] = (4, 6)

Members = Mapping[Backend, Endpoint]
Usable = dict[Family, tuple[Backend, ...]]


class Here(NamedTuple):
    """Where this proxy runs."""

    node: str | None = None
    """None without a cluster: this machine is the only node, and everything is local."""
    zone: str | None = None


def usable(members: Members, here: Here) -> Usable:
    """The endpoints for new connections, by family: the ready ones, or those of them that the hints
    mean for this node; while none is ready, the terminating ones that still serve.

    A family without any endpoint, of any state, borrows the other's: a relay can join an
    IPv4 client to an IPv6 pod, which no rule in the kernel could.
    """
    return _by_family(members, lambda alike: _choose(alike, here))


def local(members: Members, here: Here) -> Usable:
    """The same for traffic that may not leave this node. Hints do not apply: what is local is near."""
    if here.node is None:
        return usable(members, here)
    return _by_family(
        members, lambda alike: _choose({b: e for b, e in alike.items() if e.node == here.node}, Here())
    )


def known_here(members: Members, here: Here) -> frozenset[Backend]:
    """Those that are known to run on this node; none where it has no name."""
    if here.node is None:
        return frozenset()
    return frozenset(backend for backend, its in members.items() if its.node == here.node)


def _by_family(members: Members, choose: Callable[[Members], tuple[Backend, ...]]) -> Usable:
    listed = {backend.ip.version for backend in members}
    if len(listed) == 1:
        return dict.fromkeys(_FAMILIES, choose(members))
    return {
        family: choose({backend: its for backend, its in members.items() if backend.ip.version == family})
        for family in _FAMILIES
    }


def _choose(alike: Members, here: Here) -> tuple[Backend, ...]:
    ready = {backend: its for backend, its in alike.items() if its.ready}
    if ready:
        return tuple(_preferred(ready, here))
    return tuple(backend for backend, its in alike.items() if state_of(its) is EndpointState.TERMINATING)


def _preferred(ready: Members, here: Here) -> Members:
    """Hints count only while every ready endpoint has them, and one of them means us."""
    for_node = {backend: its for backend, its in ready.items() if here.node in its.for_nodes}
    if for_node and all(its.for_nodes for its in ready.values()):
        return for_node
    for_zone = {backend: its for backend, its in ready.items() if here.zone in its.for_zones}
    if for_zone and all(its.for_zones for its in ready.values()):
        return for_zone
    return ready
