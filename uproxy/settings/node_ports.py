"""Which addresses serve NodePorts, by what kube-proxy's mode means where nothing is said of them. Pure.

Sources: kube-proxy 1.36, pkg/proxy/nftables/proxier.go and pkg/proxy/iptables/proxier.go: with nftables the
primary addresses; with iptables all, those of IPv4's loopback among them but where `localhostNodePorts` is
false.
"""

from ipaddress import ip_network

from uproxy.model.names import IPNetwork
from uproxy.model.node import NodePortKeyword

MODES = ("iptables", "ipvs", "nftables", "userspace")
_LOOPBACK = ip_network("127.0.0.0/8")
_Entries = tuple[IPNetwork | NodePortKeyword, ...]


def parse_mode(text: str) -> str:
    """Raises ValueError, with words for a person."""
    if text not in MODES:
        raise ValueError(f"must be one of {', '.join(MODES)}, not {text!r}")
    return text


def node_port_addresses(said: _Entries, mode: str, localhost: bool | None) -> _Entries:
    """What is said of addresses, and what kube-proxy would take beside it. `mode` is empty, and
    `localhost` None, where nothing is said of them."""
    if mode == "nftables":
        return said or (NodePortKeyword.PRIMARY,)
    if mode not in ("iptables", ""):
        return said
    if localhost is False:
        return tuple(entry for entry in said if not _is_loopback(entry)) or said
    if (localhost or mode == "iptables") and (not said or any(map(_is_all, said))):
        return (*(said or (NodePortKeyword.ALL,)), _LOOPBACK)
    return said


def _is_all(entry: IPNetwork | NodePortKeyword) -> bool:
    if isinstance(entry, NodePortKeyword):
        return entry is NodePortKeyword.ALL
    return entry.version == 4 and entry.prefixlen == 0


def _is_loopback(entry: IPNetwork | NodePortKeyword) -> bool:
    return entry is NodePortKeyword.LOCALHOST if isinstance(entry, NodePortKeyword) else entry.is_loopback
