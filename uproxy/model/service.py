"""Service, with the fields that a proxy needs and no others."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from uproxy.model.names import Family, IPAddress, IPNetwork, NamespacedName, Protocol
from uproxy.model.options import DEFAULT_OPTIONS, Options


class ServiceType(StrEnum):
    """`spec.type`."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"
    EXTERNAL_NAME = "ExternalName"


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One entry of `spec.ports`. `target_port` is a number, or the name of a container's port."""

    name: str
    protocol: Protocol
    port: int
    target_port: int | str
    node_port: int | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """A Service as written: nothing defaulted that an API server or uproxy would allocate."""

    key: NamespacedName
    ports: tuple[ServicePort, ...]
    type: ServiceType = ServiceType.CLUSTER_IP
    headless: bool = False
    """`clusterIP: None`."""
    cluster_ips: tuple[IPAddress, ...] = ()
    """Empty when the manifest names none, and uproxy has to choose."""
    external_ips: tuple[IPAddress, ...] = ()
    load_balancer_ips: tuple[IPAddress, ...] = ()
    """`status.loadBalancer.ingress[].ip` where ipMode is VIP or absent (KEP-1860)."""
    ip_families: tuple[Family, ...] = ()
    """`spec.ipFamilies`; empty when not given."""
    affinity_timeout_s: int | None = None
    """Seconds of `sessionAffinity: ClientIP`; None means no affinity."""
    selector: Mapping[str, str] = field(default_factory=dict)
    publish_not_ready_addresses: bool = False
    internal_local: bool = False
    """`internalTrafficPolicy: Local`: clients of the cluster IP get endpoints of their own node only."""
    external_local: bool = False
    """`externalTrafficPolicy: Local`: the same for clients from outside, on all other addresses."""
    source_ranges: tuple[IPNetwork, ...] = ()
    """`loadBalancerSourceRanges`: who may use the load balancer's addresses; empty lets everybody in."""
    health_check_node_port: int | None = None
    """Where load balancers ask whether this node has endpoints; only with `external_local`."""
    external_name: str = ""
    """`spec.externalName` of an ExternalName Service."""
    options: Options = DEFAULT_OPTIONS
    """What annotations `uproxy.dev/...` ask for."""
    option_faults: tuple[str, ...] = ()
    """Annotations that cannot be followed, and why; their options keep their defaults."""
    proxy_name: str | None = None
    """Label `service.kubernetes.io/service-proxy-name`: another proxy's Service."""

    @property
    def captured(self) -> bool:
        """Whether a Service proxy serves it at all (kube-proxy's ShouldSkipService)."""
        return not self.headless and self.type is not ServiceType.EXTERNAL_NAME and self.proxy_name is None
