"""Where a Service's traffic can go: EndpointSlices, and Pods for Services with a selector."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from itertools import zip_longest

from msgspec import Struct

from uproxy.model.names import IPAddress, NamespacedName, Protocol


class Origin(IntEnum):
    """What an EndpointSlice was made from, most authoritative first.

    A Service's slices of the lowest-numbered origin present are used; an EndpointSlice
    therefore silences the Endpoints object and the Pods that it mirrors.
    """

    ENDPOINT_SLICE = 1
    ENDPOINTS = 2
    PODS = 3
    FLAG = 4
    """From `--endpoint`: always used, in addition to the others."""


class Endpoint(Struct, frozen=True, gc=False):
    """One address of a slice, with the conditions of discovery.k8s.io/v1 already defaulted.

    There may be a hundred thousand, which the garbage collector need not walk: none is in a cycle.
    """

    host: IPAddress | str
    """An address, or a host name (addressType FQDN) that is resolved while it is in use."""
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node: str | None = None
    """Name of the node that it runs on, when the slice says."""
    hostname: str = ""
    """The first label of its own DNS name (StatefulSets)."""
    for_nodes: frozenset[str] = frozenset()
    """`hints.forNodes`: which nodes should use it (KEP-3015)."""
    for_zones: frozenset[str] = frozenset()
    """`hints.forZones`: which zones should (KEP-2433)."""


@dataclass(frozen=True, slots=True)
class SlicePort:
    """A port of a slice: `name` is the Service port's name."""

    name: str
    protocol: Protocol
    port: int


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """Endpoints of one Service that share their ports. `key` is unique within its origin."""

    key: NamespacedName
    service: NamespacedName
    ports: tuple[SlicePort, ...]
    endpoints: tuple[Endpoint, ...]
    origin: Origin = Origin.ENDPOINT_SLICE
    triggered_at_s: float | None = field(default=None, compare=False)
    """Unix time of the Pod's or Service's change that led to this version, for the network programming
    latency (annotation endpoints.kubernetes.io/last-change-trigger-time)."""


def sharing(before: EndpointSlice, now: EndpointSlice) -> EndpointSlice:
    """`now` with those endpoints of the version before that are where they were.

    A slice that changes is sent whole. What is the same object is compared at once, is there once, and
    is old to the garbage collector, which does not walk it again.
    """
    pairs = zip_longest(now.endpoints, before.endpoints[: len(now.endpoints)])
    return replace(now, endpoints=tuple([old if old == new else new for new, old in pairs]))


@dataclass(frozen=True, slots=True)
class ContainerPort:
    """A named port of a Pod's container, which a Service's `targetPort` may refer to."""

    name: str
    protocol: Protocol
    port: int


@dataclass(frozen=True, slots=True)
class Pod:
    """A Pod as an endpoint of the Services whose selector matches its labels."""

    key: NamespacedName
    labels: Mapping[str, str]
    ips: tuple[IPAddress, ...]
    ports: tuple[ContainerPort, ...]
    ready: bool
    """Its Ready condition: a terminating Pod that still has it serves, but is not ready."""
    terminating: bool = False
    node: str | None = None
    """Name of the node that it runs on."""
