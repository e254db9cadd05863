"""The proxy's own table: which addresses lead to which backends."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from msgspec import Struct

from uproxy.model.names import Family, IPAddress, IPNetwork, Protocol, ServicePortName, Vip, address_text
from uproxy.model.options import DEFAULT_OPTIONS, Options


class Backend(Struct, frozen=True, order=True, cache_hash=True, gc=False):
    """What is dialled: an address and a port. The key of many tables, so its hash is remembered."""

    ip: IPAddress
    port: int

    def __str__(self) -> str:
        return address_text(self.ip, self.port)


class FrontendKind(StrEnum):
    """Which field of the Service an address came from."""

    CLUSTER_IP = "ClusterIP"
    EXTERNAL_IP = "ExternalIP"
    LOAD_BALANCER = "LoadBalancer"
    NODE_PORT = "NodePort"


@dataclass(frozen=True, slots=True)
class Frontend:
    """One VIP of one Service port."""

    vip: Vip
    kind: FrontendKind
    family: Family
    """Family of the endpoints behind it. Differs from the VIP's own only where a loopback
    address stands in for an IPv6 clusterIP."""
    local: bool = False
    """The traffic policy that holds for this address is Local (KEP-2086, KEP-1138)."""
    allowed: tuple[IPNetwork, ...] = ()
    """Only clients from these get an answer (`loadBalancerSourceRanges`); empty lets everybody in."""


class Treatment(StrEnum):
    """What becomes of new traffic for one frontend."""

    FORWARD = "forward"
    """Taken to an endpoint."""
    INSIDE = "inside"
    """The same for clients on this node and in its Pods; others get no answer, so that a load balancer
    takes another node."""
    REJECT = "reject"
    """Refused: a TCP reset, or ICMP port unreachable."""
    DROP = "drop"
    """No answer."""


class EndpointState(StrEnum):
    """An endpoint's standing, as `uproxy services` prints it."""

    READY = "ready"
    TERMINATING = "terminating"
    """Still serving; used only while nothing is ready (KEP-1669)."""
    NOT_READY = "not-ready"


@dataclass(frozen=True, slots=True)
class DesiredServicePort:
    """Everything that is to be programmed for one Service port.

    `endpoints` has every known endpoint with its state; `usable` those that take new
    connections, by address family; `local` those for traffic that may not leave this node, and is
    empty where no policy asks for it.
    """

    name: ServicePortName
    port: int
    frontends: tuple[Frontend, ...]
    endpoints: Mapping[Backend, EndpointState]
    usable: Mapping[Family, tuple[Backend, ...]]
    affinity_timeout_s: int | None = None
    notes: tuple[str, ...] = ()
    """Why parts of the Service are not served: `10.0.0.1:80/TCP belongs to default/other`."""
    local: Mapping[Family, tuple[Backend, ...]] = field(default_factory=dict)
    options: Options = DEFAULT_OPTIONS
    """What the Service asks of this proxy in particular."""
    gone: frozenset[Backend] = frozenset()
    """Endpoints that are listed still, but have ended: terminating, and serving no more."""
    here: frozenset[Backend] = frozenset()
    """Endpoints known to run on this node; empty where a node has no name."""

    def holds(self, frontend: Frontend) -> bool:
        """Whether clients of `frontend` are accepted though there is no endpoint, and wait for a first one.
        A datagram is not worth keeping: its sender asks again."""
        wanted = self.options.hold_s is not None and self.name.protocol is Protocol.TCP
        return wanted and not self.usable.get(frontend.family)

    def backends(self, frontend: Frontend, *, inside: bool = False) -> tuple[Backend, ...]:
        """Where clients of `frontend` go. Those `inside`, on this node or in its Pods, are not bound by
        the external policy: for them the address is a short cut to the Service."""
        bound = frontend.local and not (inside and frontend.kind is not FrontendKind.CLUSTER_IP)
        return (self.local if bound else self.usable).get(frontend.family, ())

    def treatment(self, frontend: Frontend) -> Treatment:
        """What becomes of new traffic for `frontend`: kube-proxy's rules for the lack of endpoints."""
        if self.backends(frontend):
            return Treatment.FORWARD
        if self.holds(frontend):
            return Treatment.FORWARD
        if not self.usable.get(frontend.family):
            return Treatment.FORWARD if self.holds(frontend) else Treatment.REJECT
        return Treatment.DROP if frontend.kind is FrontendKind.CLUSTER_IP else Treatment.INSIDE


@dataclass(frozen=True, slots=True)
class Changes:
    """The difference between two desired states; `updated` has whole new versions."""

    updated: tuple[DesiredServicePort, ...] = ()
    removed: tuple[ServicePortName, ...] = ()
    inside: tuple[IPNetwork, ...] | None = None
    """Where this node's Pods are, for traffic policies; None while that is as it was."""
