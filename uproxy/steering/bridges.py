"""Frames that a bridge would carry past this node, lifted into it: answers to dials between its ports.

Owns the table `bridge uproxy`. Two Pods of one bridge reach each other without the node. When one is
dialled from the other's address, its answer is such a frame; br_netfilter shows it to the rules of
`tproxy.py`, which mark it, and here it gets the bridge's own address and is the node's. Without
br_netfilter, or without the expressions for it, nothing is lifted, and `lifts` says so. Sources: nft(8),
ADDRESS FAMILIES; the kernel's Documentation/networking/ip-sysctl.rst, bridge-nf-call-iptables.
"""

import asyncio
import json
import logging
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from uproxy.errors import CommandFailed
from uproxy.kernel import nft_expressions as packet
from uproxy.kernel.nft import NftNetlink, remove_table
from uproxy.kernel.nft_commands import Definition, networks
from uproxy.kernel.nft_messages import Element, Table
from uproxy.kernel.nft_statements import Masked, SetMac, SetPacketType
from uproxy.kernel.nft_table import Chain, Hook, Rule, Set, rule
from uproxy.kernel.nft_types import ADDRESS, ETHER_ADDR
from uproxy.kit.programs import peek
from uproxy.model.frontend import Changes
from uproxy.model.names import Family, IPNetwork, Vip
from uproxy.steering.tproxy import DELIVERED, MASK

_TABLE = Table("bridge", "uproxy")
_SWITCHES: Mapping[Family, str] = {4: "bridge-nf-call-iptables", 6: "bridge-nf-call-ip6tables"}
_HOOK = Hook("filter", "prerouting", 10)
"""After br_netfilter, whose priority is 0."""

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
        self._link = NftNetlink()
        self._devices: frozenset[tuple[int, str]] = frozenset()
        self._programmed: Definition | None = None
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
        wanted = table(found, families)
        if wanted == self._programmed:
            return
        self._programmed, self._lifted = wanted, frozenset()
        try:
            await asyncio.to_thread(lambda: self._link.commit(wanted.commands()))
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
        self._link.close()
        await remove_bridge_table()


async def remove_bridge_table() -> list[str]:
    """Remove the table of any run; returns what was there, in words. Raises CommandFailed."""
    return await asyncio.to_thread(remove_table, _TABLE)


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


def table(found: Iterable[Bridge], families: Iterable[Family]) -> Definition:
    """The complete table, or none."""
    pairs = [(network, bridge.mac) for bridge in found for network in bridge.networks]
    sets: list[Set] = []
    rules: list[Rule] = []
    elements: dict[str, Sequence[Element]] = {}
    for family in sorted(families):
        its = [
            one._replace(leads_to=ETHER_ADDR.pack(mac))
            for network, mac in pairs
            if network.version == family
            for one in networks([network])
        ]
        if its:
            macs = Set(f"macs{family}", (ADDRESS[family],), (ETHER_ADDR,), interval=True)
            sets.append(macs)
            elements[macs.name] = its
            to_bridge = SetMac(packet.SADDR[family], macs.name)
            rules.append(rule(Masked(packet.MARK, MASK, DELIVERED), to_bridge, SetPacketType("host")))
    chains = (Chain("lift", tuple(rules), _HOOK),) if rules else ()
    return Definition(_TABLE, sets, chains, elements)
