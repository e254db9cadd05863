"""Nodes, as the cluster sees them. Only the own one matters: the node that this proxy runs on."""

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address

from uproxy.model.names import IPAddress, IPNetwork, NamespacedName

OWN_SOURCE = ip_address("192.0.0.192")
"""Where the node's own datagrams to external addresses come from: nobody's (RFC 6890), and always local."""


class NodePortKeyword(StrEnum):
    """What may stand for CIDRs in `nodePortAddresses`."""

    PRIMARY = "primary"
    """The Node's first InternalIP of each family, or what overrides it."""
    LOCALHOST = "localhost"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Node:
    """What decisions about traffic depend on."""

    name: str
    zone: str | None = None
    """Label topology.kubernetes.io/zone."""
    addresses: tuple[IPAddress, ...] = ()
    """`status.addresses` of type InternalIP, then ExternalIP; the first of a family is the primary one."""
    pod_cidrs: tuple[IPNetwork, ...] = ()
    """`spec.podCIDRs`."""
    leaving: bool = False
    """Being deleted, or tainted ToBeDeletedByClusterAutoscaler: load balancers should look elsewhere
    (KEP-3836)."""

    @property
    def key(self) -> NamespacedName:
        """Nodes have no namespace."""
        return NamespacedName("", self.name)
