"""How many connections the kernel has in hand: questions to conntrack, and how it forgets a flow.

Owns reading its table (ctnetlink: linux/netfilter/nfnetlink_conntrack.h), of which only translated
connections come up from the kernel (CTA_STATUS with a mask, Linux 5.18; older ones tell everything).
TCP is left alone: its ends find out for themselves.
"""

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing
from ipaddress import ip_address
from typing import NamedTuple

from uproxy.kit.netlink import NETFILTER, Link, attribute, attributes
from uproxy.model.frontend import Backend
from uproxy.model.names import Family, IPAddress, Protocol, Vip

_GET = 1 << 8 | 1
"""IPCTNL_MSG_CT_GET of NFNL_SUBSYS_CTNETLINK."""
_DELETE = 1 << 8 | 2
_FAMILY = struct.Struct("=BBH")
_STATUS, _PROTOINFO, _TO, _BACK, _IDENTITY, _STATUS_MASK = 3, 4, 9, 10, 12, 26
_COUNTERS = struct.Struct("!4xQ4xQ")
"""Packets and bytes of one direction."""
_DST_NAT = 1 << 5
_LAST_OPEN = 5
"""TCP_CONNTRACK_CLOSE_WAIT: one side may still send. What follows is over."""
_FAMILIES: tuple[Family, ...] = (4, 6)
_AF: dict[Family, int] = {4: socket.AF_INET, 6: socket.AF_INET6}
_ANYWHERE = {4: ip_address("0.0.0.0"), 6: ip_address("::")}
_PROTOCOLS = {socket.IPPROTO_TCP: Protocol.TCP, socket.IPPROTO_UDP: Protocol.UDP}


class Translated(NamedTuple):
    """Connections that are alike: where their clients went, and who answers them."""

    protocol: Protocol
    ip: IPAddress
    port: int
    backend: Backend

    @property
    def vips(self) -> tuple[Vip, Vip]:
        """The two that it may be of: its address's, and a NodePort's."""
        anywhere = _ANYWHERE[self.ip.version]
        return Vip(self.ip, self.port, self.protocol), Vip(anywhere, self.port, self.protocol)


class Remembered(NamedTuple):
    """One connection, and what it has had; zeros where the kernel does not count (nf_conntrack_acct)."""

    identity: bytes
    its: Translated
    packets_to: int
    bytes_to: int
    packets_back: int
    bytes_back: int


class Conntrack:
    """Asks in a thread at each call."""

    async def open_connections(self) -> Mapping[Translated, int]:
        """Connections that DNAT leads elsewhere: TCP up to its end, UDP while the kernel remembers it. Those
        that are redirected to the relay are among them. Nothing where this kernel has no ctnetlink."""
        return await asyncio.to_thread(_count)

    async def remembered(self) -> list[Remembered]:
        """All connections that DNAT leads elsewhere, also those that are over and not forgotten yet."""
        return await asyncio.to_thread(_remembered)

    async def forget(self, is_gone: Callable[[Translated], bool]) -> None:
        """Forget the UDP flows that `is_gone` says are: their next datagrams are led anew. They would
        go to an endpoint that is no more for as long as they keep coming (kubernetes/kubernetes#19029)."""
        await asyncio.to_thread(_forget, is_gone)

    async def forget_untranslated(self, vips: Collection[Vip]) -> None:
        """Forget the UDP flows to these that are not translated: conntrack remembers of each whether it is to
        be, and those that the relay has had are not."""
        await asyncio.to_thread(_forget_untranslated, vips)


def _count() -> Mapping[Translated, int]:
    raw: Counter[tuple[Family, bytes]] = Counter()
    try:
        with closing(Link(NETFILTER)) as link:
            raw.update((family, key) for family in _FAMILIES for key, _ in _dump(link, family))
    except OSError:
        return {}
    return {found: count for key, count in raw.items() if (found := _translated(*key)) is not None}


def _remembered() -> list[Remembered]:
    found: list[Remembered] = []
    try:
        with closing(Link(NETFILTER)) as link:
            for family in _FAMILIES:
                for key, rest in _dump(link, family, over=True):
                    its = _translated(family, key)
                    if its is not None:
                        found.append(_with_counters(its, rest, _tuple_size(family)))
    except OSError:
        return []
    return found


def _with_counters(its: Translated, raw: bytes, size: int) -> Remembered:
    rest = dict(attributes(raw[2 * size :]))
    counters: list[int] = []
    for kind in (_TO, _BACK):
        found = rest.get(kind, b"")
        counters += _COUNTERS.unpack(found) if len(found) == _COUNTERS.size else (0, 0)
    return Remembered(rest.get(_IDENTITY, b"") + raw[:size], its, *counters)


def _forget(is_gone: Callable[[Translated], bool]) -> None:
    try:
        with closing(Link(NETFILTER)) as link:
            for family in _FAMILIES:
                gone = [its for key, its in _dump(link, family) if _is_flow(family, key, is_gone)]
                _delete(link, family, gone)
    except OSError:
        return


def _forget_untranslated(vips: Collection[Vip]) -> None:
    wanted = {(vip.protocol, vip.ip, vip.port) for vip in vips}
    try:
        with closing(Link(NETFILTER)) as link:
            for family in {vip.family for vip in vips}:
                flows = [its[_FAMILY.size :] for its in link.dump(_GET, _FAMILY.pack(_AF[family], 0, 0))]
                _delete(link, family, [its for its in flows if _went_to(its, family) in wanted])
    except OSError:
        return


def _delete(link: Link, family: Family, flows: Iterable[bytes]) -> None:
    """Some may be over by now."""
    size = _tuple_size(family)
    link.ask(_DELETE, [_FAMILY.pack(_AF[family], 0, 0) + its[:size] for its in flows])


def _is_flow(family: Family, key: bytes, is_gone: Callable[[Translated], bool]) -> bool:
    found = _translated(family, key)
    return found is not None and found.protocol is Protocol.UDP and is_gone(found)


def _dump(link: Link, family: Family, *, over: bool = False) -> Iterator[tuple[bytes, bytes]]:
    """Of each connection the bytes that tell it from others (but for the client), and all its attributes, of
    which the first names it. With those that are over?"""
    flags = struct.pack("!I", _DST_NAT)
    body = _FAMILY.pack(_AF[family], 0, 0) + attribute(_STATUS, flags) + attribute(_STATUS_MASK, flags)
    for its in link.dump(_GET, body):
        rest = its[_FAMILY.size :]
        key = _key(rest, family, over=over)
        if key is not None:
            yield key, rest


def _tuple_size(family: Family) -> int:
    """Of the attribute of one direction: headers, two addresses, protocol and two ports."""
    return 4 + 4 + 2 * (4 + (4 if family == 4 else 16)) + 4 + 3 * 8


def _key(its: bytes, family: Family, *, over: bool) -> bytes | None:
    """The protocol, where it went and who answers; None when it is not translated, or is over.

    The kernel writes both tuples first, each always in the same shape: addresses, then protocol and ports,
    every attribute with a header of four bytes and padded to four.
    """
    wide, size = 4 if family == 4 else 16, _tuple_size(family)
    rest = dict(attributes(its[2 * size :]))
    (status,) = struct.unpack("!I", rest.get(_STATUS, bytes(4)))
    if not status & _DST_NAT:
        return None
    info = rest.get(_PROTOINFO, b"")
    if not over and len(info) > 8 and info[8] > _LAST_OPEN:  # nested: TCP, its state
        return None
    ports = 4 + 4 + 2 * (4 + wide) + 4
    went_to = its[ports - 4 - wide : ports - 4] + its[ports + 20 : ports + 22]
    answers_from = its[size + 12 : size + 12 + wide] + its[size + ports + 12 : size + ports + 14]
    return its[ports + 4 : ports + 5] + went_to + answers_from


def _went_to(its: bytes, family: Family) -> tuple[Protocol, IPAddress, int] | None:
    """Where a connection went, if it is one of TCP or UDP; translated or not."""
    wide = 4 if family == 4 else 16
    ports = 4 + 4 + 2 * (4 + wide) + 4
    protocol = _PROTOCOLS.get(its[ports + 4])
    if protocol is None:
        return None
    port = int.from_bytes(its[ports + 20 : ports + 22], "big")
    return protocol, ip_address(its[ports - 4 - wide : ports - 4]), port


def _translated(family: Family, key: bytes) -> Translated | None:
    wide = 4 if family == 4 else 16
    protocol = _PROTOCOLS.get(key[0])
    if protocol is None or len(key) != 5 + 2 * wide:
        return None
    backend = Backend(ip_address(key[3 + wide : 3 + 2 * wide]), int.from_bytes(key[-2:], "big"))
    port = int.from_bytes(key[1 + wide : 3 + wide], "big")
    return Translated(protocol, ip_address(key[1 : 1 + wide]), port, backend)
