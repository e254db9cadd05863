"""Which of the node's addresses serve NodePorts, and the ports of health checks beside them.

Pure. The rules are kube-proxy's (pkg/proxy/util/nodeport_addresses.go): each IP family by
itself, and one of which nothing is said, or nothing is found, is served everywhere.
"""

from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network

from uproxy.model.names import Family, IPAddress, IPNetwork
from uproxy.model.node import Node, NodePortKeyword

_ANY: dict[Family, IPAddress] = {4: ip_address("0.0.0.0"), 6: ip_address("::")}
_LOCALHOST = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
_ALL = (ip_network("0.0.0.0/0"), ip_network("::/0"))


def node_port_ips(
    wanted: Iterable[IPNetwork | NodePortKeyword],
    local_ips: Iterable[IPAddress],
    node: Node | None,
    bind_address: IPAddress | None,
) -> tuple[IPAddress, ...]:
    """The addresses to listen on; 0.0.0.0 and :: stand for all of their family.

    `local_ips` are the machine's own, and `bind_address` is more to the point than what `node` says.
    """
    own = sorted(set(local_ips), key=lambda ip: (ip.version, ip))
    primary = list(_primary(node, bind_address))
    networks = [network for entry in wanted for network in _networks(entry, primary)]
    return tuple(ip for family in _ANY for ip in _of_family(family, networks, own))


def _of_family(family: Family, networks: list[IPNetwork], own: list[IPAddress]) -> Iterable[IPAddress]:
    mine = [network for network in networks if network.version == family]
    if not mine or any(network.prefixlen == 0 for network in mine):
        return (_ANY[family],)
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
