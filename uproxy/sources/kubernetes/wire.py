"""What the API server sends, as msgspec Structs of the fields that a proxy needs.

Owns the API's field names and types. Fields that are not named here are never made into objects.
A default is what an absent field means on the wire; what values mean is `convert`'s business. The
garbage collector does not track these: each lives only until it is converted, and none is in a cycle.
"""

from typing import Generic, TypeVar

from msgspec import Raw, Struct, field

T = TypeVar("T")


class Wire(Struct, gc=False, rename="camel"):
    """Settings of all of them: field names in camelCase."""


class Metadata(Wire):
    """ObjectMeta."""

    name: str = ""
    namespace: str = ""
    resource_version: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    deletion_timestamp: str | None = None


class Named(Wire):
    """An entry that is nothing but a name: a hint."""

    name: str = ""


# ---- Service (v1) ----


class ServicePort(Wire):
    """An entry of `spec.ports`."""

    port: int
    name: str = ""
    protocol: str = "TCP"
    target_port: int | str | None = None
    node_port: int | None = None


class ClientIP(Wire):
    """`spec.sessionAffinityConfig.clientIP`."""

    timeout_seconds: int | None = None


class AffinityConfig(Wire):
    """`spec.sessionAffinityConfig`."""

    client_ip: ClientIP | None = field(default=None, name="clientIP")


class ServiceSpec(Wire):
    """`spec` of a Service."""

    type: str = "ClusterIP"
    ports: list[ServicePort] | None = None
    selector: dict[str, str] | None = None
    cluster_ip: str = field(default="", name="clusterIP")
    cluster_ips: list[str] | None = field(default=None, name="clusterIPs")
    external_ips: list[str] | None = field(default=None, name="externalIPs")
    ip_families: list[str] | None = None
    external_name: str = ""
    session_affinity: str = "None"
    session_affinity_config: AffinityConfig | None = None
    internal_traffic_policy: str | None = None
    external_traffic_policy: str | None = None
    load_balancer_source_ranges: list[str] | None = None
    health_check_node_port: int | None = None
    publish_not_ready_addresses: bool = False


class Ingress(Wire):
    """An entry of `status.loadBalancer.ingress`."""

    ip: str = ""
    ip_mode: str | None = None


class LoadBalancer(Wire):
    """`status.loadBalancer`."""

    ingress: list[Ingress] | None = None


class ServiceStatus(Wire):
    """`status` of a Service."""

    load_balancer: LoadBalancer | None = None


class Service(Wire):
    """A Service."""

    metadata: Metadata
    spec: ServiceSpec | None = None
    status: ServiceStatus | None = None


# ---- EndpointSlice (discovery.k8s.io/v1) ----


class Conditions(Wire):
    """An endpoint's conditions; absent means unknown."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Hints(Wire):
    """An endpoint's topology hints."""

    for_zones: list[Named] | None = None
    for_nodes: list[Named] | None = None


class Endpoint(Wire):
    """An entry of `endpoints`."""

    addresses: list[str] | None = None
    conditions: Conditions | None = None
    hostname: str | None = None
    node_name: str | None = None
    hints: Hints | None = None


class EndpointPort(Wire):
    """An entry of a slice's `ports`. Without a number it means all ports."""

    name: str | None = None
    port: int | None = None
    protocol: str | None = None


class EndpointSlice(Wire):
    """An EndpointSlice."""

    metadata: Metadata
    address_type: str = ""
    endpoints: list[Endpoint] | None = None
    ports: list[EndpointPort] | None = None


# ---- Node (v1) ----


class Taint(Wire):
    """An entry of a node's `spec.taints`."""

    key: str = ""


class NodeSpec(Wire):
    """`spec` of a Node."""

    taints: list[Taint] | None = None
    pod_cidr: str = field(default="", name="podCIDR")
    pod_cidrs: list[str] | None = field(default=None, name="podCIDRs")


class NodeAddress(Wire):
    """An entry of a node's `status.addresses`."""

    type: str = ""
    address: str = ""


class NodeStatus(Wire):
    """`status` of a Node."""

    addresses: list[NodeAddress] | None = None


class Node(Wire):
    """A Node."""

    metadata: Metadata
    spec: NodeSpec | None = None
    status: NodeStatus | None = None


# ---- envelopes ----


class WatchEvent(Wire, Generic[T]):
    """A line of a watch: ADDED, MODIFIED, DELETED, BOOKMARK or ERROR."""

    type: str
    object: T


class ListMetadata(Wire):
    """ListMeta. `continue` is there while pages follow."""

    resource_version: str = ""
    continue_: str = field(default="", name="continue")


class ListPage(Wire):
    """A page of a list. Items are left as they are, so that they can be decoded in small portions."""

    metadata: ListMetadata
    items: list[Raw] | None = None


class Bookmark(Wire):
    """The object of a BOOKMARK event: nothing but metadata."""

    metadata: Metadata


class StatusDetails(Wire):
    """`details` of a Status."""

    retry_after_seconds: int = 0


class Status(Wire):
    """Why the API server does not do what was asked."""

    message: str = ""
    reason: str = ""
    code: int = 0
    details: StatusDetails | None = None
