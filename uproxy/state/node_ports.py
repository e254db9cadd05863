"""Which of the node's addresses serve NodePorts, and the ports of health checks beside them.

Pure. The rules are kube-proxy's (pkg/proxy/util/nodeport_addresses.go): each IP family by
itself, and one of which nothing is said, or nothing is found, is served everywhere.
"""

from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from uproxy.model.names import Family, IPAddress, IPNetwork
from uproxy.model.node import Node, NodePortKeyword

_ANY: dict[Family, IPAddress] = {4: ip_address("0.0.0.0"), 6: ip_address("::")}
_LOCALHOST = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
_ALL = (ip_network("0.0.0.0/0"), ip_network("::/0"))


class NodePortPlan(NamedTuple):
    """What is said of the node's addresses that serve NodePorts."""

    wanted: tuple[IPNetwork | NodePortKeyword, ...] = ()
    """`nodePortAddresses`; all when nothing is said."""
    bind_address: IPAddress | None = None
    """More to the point than what the Node says of its primary address."""


EVERYWHERE = NodePortPlan()


def node_port_ips(
    plan: NodePortPlan, local_ips: Iterable[IPAddress], node: Node | None
) -> tuple[IPAddress, ...]:
    """The addresses to serve; 0.0.0.0 and :: stand for all of their family, but for loopback's where
    those are not named too. `local_ips` are the machine's own."""
    wanted, bind_address = plan
    own = sorted(set(local_ips), key=lambda ip: (ip.version, ip))
    primary = list(_primary(node, bind_address))
    networks = [network for entry in wanted for network in _networks(entry, primary)]
    return tuple(ip for family in _ANY for ip in _of_family(family, networks, own))


def _of_family(family: Family, networks: list[IPNetwork], own: list[IPAddress]) -> Iterable[IPAddress]:
    mine = [network for network in networks if network.version == family]
    if not mine or any(network.prefixlen == 0 for network in mine):
        # What stands for every address has none on loopback, where a capture redirects.
        loopback = [network for network in mine if network.is_loopback]
        return [_ANY[family], *(ip for ip in own if any(ip in network for network in loopback))]
    return [ip for ip in own if any(ip in network for network in mine)] or (_ANY[family],)


def _networks(entry: IPNetwork | NodePortKeyword, primary: list[IPAddress]) -> Iterable[IPNetwork]:
    match entry:
        case NodePortKeyword.PRIMARY:
            return [ip_network(ip) for ip in primary]
        case NodePortKeyword.LOCALHOST:
            return _LOCALHOST
        case NodePortKeyword.ALL:
            return _ALL
        case network:
            return (network,)


def _primary(node: Node | None, bind_address: IPAddress | None) -> Iterator[IPAddress]:
    """The first address of each family."""
    known = [bind_address] if bind_address is not None else []
    known += node.addresses if node is not None else ()
    for family in _ANY:
        yield from [ip for ip in known if ip.version == family][:1]
