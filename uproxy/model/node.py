"""The node that this proxy runs on, as the cluster sees it."""

from dataclasses import dataclass

from uproxy.model.names import IPAddress, IPNetwork


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
