"""The proxy's own table: which addresses lead to which backends."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from uproxy.model.names import Family, IPAddress, ServicePortName, Vip, address_text


class Backend(NamedTuple):
    """What is dialled: an address and a port."""

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
    connections, by address family.
    """

    name: ServicePortName
    port: int
    frontends: tuple[Frontend, ...]
    endpoints: Mapping[Backend, EndpointState]
    usable: Mapping[Family, tuple[Backend, ...]]
    affinity_timeout_s: int | None = None
    notes: tuple[str, ...] = ()
    """Why parts of the Service are not served: `10.0.0.1:80/TCP belongs to default/other`."""

    def backends(self, frontend: Frontend) -> tuple[Backend, ...]:
        """The usable backends behind `frontend`; empty means that its clients are refused."""
        return self.usable.get(frontend.family, ())


@dataclass(frozen=True, slots=True)
class Changes:
    """The difference between two desired states; `updated` has whole new versions."""

    updated: tuple[DesiredServicePort, ...] = ()
    removed: tuple[ServicePortName, ...] = ()
