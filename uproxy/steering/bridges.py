"""Frames that a bridge would carry past this node, lifted into it: answers to dials between its ports.

Owns the table `bridge uproxy`. Two Pods of one bridge reach each other without the node. When one is
dialled from the other's address, its answer is such a frame; br_netfilter shows it to the rules of
`tproxy.py`, which mark it, and here it gets the bridge's own address and is the node's. Without
br_netfilter, or without the expressions for it, nothing is lifted, and `lifts` says so. Sources: nft(8),
ADDRESS FAMILIES; the kernel's Documentation/networking/ip-sysctl.rst, bridge-nf-call-iptables.
"""

import json
import logging
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from uproxy.errors import CommandFailed
from uproxy.kit.nft import Nft
from uproxy.kit.programs import peek
from uproxy.model.frontend import Changes
from uproxy.model.names import Family, IPNetwork, Vip
from uproxy.steering.tproxy import DELIVERED, MASK

_TABLE = "bridge uproxy"
_SWITCHES: Mapping[Family, str] = {4: "bridge-nf-call-iptables", 6: "bridge-nf-call-ip6tables"}
_KINDS: Mapping[Family, str] = {4: "ipv4_addr", 6: "ipv6_addr"}
_HEADERS: Mapping[Family, str] = {4: "ip", 6: "ip6"}

_MAP = "\tmap macs{family} {{ type {kind} : ether_addr; flags interval; elements = {{ {elements} }}; }}\n"
_HOOK = "\t\ttype filter hook prerouting priority 10; policy accept;\n"
"""After br_netfilter, whose priority is 0."""
_RULE = (
    f"\t\tmeta mark & {MASK:#x} == {DELIVERED:#x} "
    "ether daddr set {header} saddr map @macs{family} meta pkttype set host\n"
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge of this node, with an address in the network of its ports."""

    device: int
    mac: str
    networks: tuple[IPNetwork, ...]


class BridgeAnswers:
    """A target: all bridges of this node, as they come and go with the Pods."""

    def __init__(self) -> None:
        self._nft = Nft()
        self._devices: frozenset[tuple[int, str]] = frozenset()
        self._programmed: str | None = None
        self._lifted: frozenset[tuple[int, Family]] = frozenset()

    def lifts(self, device: int, family: Family) -> bool:
        """Whether answers between two ports of this bridge come to the node."""
        return (device, family) in self._lifted

    async def make(self, _changes: Changes) -> Mapping[Vip, str]:
        """Look again if there are other devices than before, and program what is different."""
        devices = frozenset(socket.if_nameindex())
        if devices != self._devices:
            self._devices = devices
            await self._program(await bridges())
        return {}

    async def _program(self, found: Iterable[Bridge]) -> None:
        families = switched_on()
        text = render_table(found, families)
        if text == self._programmed:
            return
        self._programmed, self._lifted = text, frozenset()
        try:
            await self._nft.execute(text)
        except CommandFailed as error:
            _log.info("Pods of one bridge see the node's address, not each other's: %s", error)
            return
        self._lifted = frozenset(
            (bridge.device, network.version)
            for bridge in found
            for network in bridge.networks
            if network.version in families
        )

    async def retire(self, changes: Changes) -> None:
        """Done by `make`."""

    async def prune(self) -> None:
        """What an earlier run left was replaced."""

    async def close(self) -> None:
        """Remove the table. Raises CommandFailed when the kernel refuses."""
        self._lifted = frozenset()
        await remove_bridge_table()


async def remove_bridge_table() -> list[str]:
    """Remove the table of any run; returns what was there, in words. Raises CommandFailed."""
    nft = Nft()
    try:
        tables = await nft.execute("list tables\n")
    except CommandFailed:
        return []  # see nft.remove
    if f"table {_TABLE}" not in tables.splitlines():
        return []
    await nft.execute(f"delete table {_TABLE}\n")
    return [f"nftables table {_TABLE}"]


async def bridges() -> list[Bridge]:
    """The bridges of this node that have an address."""
    found = json.loads(await peek("ip", "-json", "address", "show", "type", "bridge") or "[]")
    # Some versions of ip print an empty object for each device that is none.
    return [_bridge(link) for link in found if link.get("addr_info")]


def _bridge(link: Mapping[str, Any]) -> Bridge:
    infos = [info for info in link["addr_info"] if info["scope"] == "global"]
    networks = {ip_interface(f"{info['local']}/{info['prefixlen']}").network for info in infos}
    return Bridge(link["ifindex"], link["address"], tuple(sorted(networks, key=str)))


def switched_on() -> frozenset[Family]:
    """The families that br_netfilter shows to the rules of this network namespace."""
    folder = Path("/proc/sys/net/bridge")
    return frozenset(family for family, name in _SWITCHES.items() if _is_on(folder / name))


def _is_on(switch: Path) -> bool:
    try:
        return switch.read_text().strip() == "1"
    except OSError:
        return False  # no br_netfilter


def render_table(found: Iterable[Bridge], families: Iterable[Family]) -> str:
    """One transaction that puts the complete table, or none, in the place of any older one."""
    pairs = [(network, bridge.mac) for bridge in found for network in bridge.networks]
    maps = rules = ""
    for family in sorted(families):
        if elements := ", ".join(f"{network} : {mac}" for network, mac in pairs if network.version == family):
            maps += _MAP.format(family=family, kind=_KINDS[family], elements=elements)
            rules += _RULE.format(family=family, header=_HEADERS[family])
    table = f"table {_TABLE} {{\n{maps}\tchain lift {{\n{_HOOK}{rules}\t}}\n}}\n" if rules else ""
    return f"add table {_TABLE}\ndelete table {_TABLE}\n{table}"
