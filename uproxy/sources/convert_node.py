"""The rules for Node (v1): what traffic policies and hints compare endpoints with."""

from ipaddress import ip_network

from uproxy.model.names import IPAddress, IPNetwork, NamespacedName
from uproxy.model.node import Node
from uproxy.sources.cursor import Cursor, shown

_TYPES = ("InternalIP", "ExternalIP")
_LEAVING_TAINT = "ToBeDeletedByClusterAutoscaler"
_ZONE_LABEL = "topology.kubernetes.io/zone"


def node(root: Cursor, key: NamespacedName) -> tuple[Node]:
    """A Node."""
    taints = [taint.at("key").text() for taint in root.at("spec", "taints").items()]
    deleted = root.at("metadata", "deletionTimestamp").value is not None
    return (
        Node(
            key.name,
            root.at("metadata", "labels").texts().get(_ZONE_LABEL) or None,
            _addresses(root.at("status", "addresses")),
            _pod_cidrs(root.at("spec")),
            leaving=deleted or _LEAVING_TAINT in taints,
        ),
    )


def _addresses(field: Cursor) -> tuple[IPAddress, ...]:
    given = [(item.at("type").text(), item.at("address")) for item in field.items()]
    wanted = [address.address() for kind in _TYPES for its, address in given if its == kind]
    return tuple(dict.fromkeys(address for address in wanted if address))


def _pod_cidrs(spec: Cursor) -> tuple[IPNetwork, ...]:
    networks = []
    for item in spec.at("podCIDRs").items() or [spec.at("podCIDR")]:
        if text := item.text():
            try:
                networks.append(ip_network(text, strict=False))
            except ValueError:
                item.fault(f"must be a network such as 10.244.1.0/24, not {shown(text)}")
    return tuple(networks)
