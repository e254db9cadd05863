"""How many connections the kernel has in hand: questions to conntrack, and how it forgets a flow.

Owns reading its table (ctnetlink: linux/netfilter/nfnetlink_conntrack.h), of which only translated
connections come up from the kernel (CTA_STATUS with a mask, Linux 5.18; older ones tell everything).
TCP is left alone: its ends find out for themselves.
"""

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address
from typing import NamedTuple

from uproxy.model.frontend import Backend
from uproxy.model.names import Family, IPAddress, Protocol

_NETLINK_NETFILTER = 12
_GET = 1 << 8 | 1
"""IPCTNL_MSG_CT_GET of NFNL_SUBSYS_CTNETLINK."""
_DELETE = 1 << 8 | 2
_REQUEST, _REQUEST_DUMP = 1, 0x301
_DONE, _ERROR = 3, 2
_HEADER, _ATTRIBUTE, _FAMILY = struct.Struct("=IHHII"), struct.Struct("=HH"), struct.Struct("=BBH")
_STATUS, _PROTOINFO, _TO, _BACK, _IDENTITY, _STATUS_MASK = 3, 4, 9, 10, 12, 26
_COUNTERS = struct.Struct("!4xQ4xQ")
"""Packets and bytes of one direction."""
_DST_NAT = 1 << 5
_LAST_OPEN = 5
"""TCP_CONNTRACK_CLOSE_WAIT: one side may still send. What follows is over."""
_FAMILIES: tuple[Family, ...] = (4, 6)
_AF: dict[Family, int] = {4: socket.AF_INET, 6: socket.AF_INET6}
_PROTOCOLS = {socket.IPPROTO_TCP: Protocol.TCP, socket.IPPROTO_UDP: Protocol.UDP}
_RECEIVE = 1 << 18
_BODY = _HEADER.size + _FAMILY.size


class Translated(NamedTuple):
    """Connections that are alike: where their clients went, and who answers them."""

    protocol: Protocol
    ip: IPAddress
    port: int
    backend: Backend


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


def _count() -> Mapping[Translated, int]:
    raw: Counter[tuple[Family, bytes]] = Counter()
    try:
        with _link() as link:
            raw.update((family, key) for family in _FAMILIES for key, _ in _dump(link, family))
    except OSError:
        return {}
    return {found: count for key, count in raw.items() if (found := _translated(*key)) is not None}


def _remembered() -> list[Remembered]:
    found: list[Remembered] = []
    try:
        with _link() as link:
            for family in _FAMILIES:
                for key, attributes in _dump(link, family, over=True):
                    its = _translated(family, key)
                    if its is not None:
                        found.append(_with_counters(its, attributes, _tuple_size(family)))
    except OSError:
        return []
    return found


def _with_counters(its: Translated, attributes: bytes, size: int) -> Remembered:
    rest = dict(_attributes(attributes[2 * size :]))
    counters: list[int] = []
    for kind in (_TO, _BACK):
        raw = rest.get(kind, b"")
        counters += _COUNTERS.unpack(raw) if len(raw) == _COUNTERS.size else (0, 0)
    return Remembered(rest.get(_IDENTITY, b"") + attributes[:size], its, *counters)


def _forget(is_gone: Callable[[Translated], bool]) -> None:
    try:
        with _link() as link:
            for family in _FAMILIES:
                for its in [its for key, its in _dump(link, family) if _is_flow(family, key, is_gone)]:
                    body = _FAMILY.pack(_AF[family], 0, 0) + its[: _tuple_size(family)]
                    link.send(_HEADER.pack(_HEADER.size + len(body), _DELETE, _REQUEST, 1, 0) + body)
    except OSError:
        return


def _is_flow(family: Family, key: bytes, is_gone: Callable[[Translated], bool]) -> bool:
    found = _translated(family, key)
    return found is not None and found.protocol is Protocol.UDP and is_gone(found)


def _link() -> socket.socket:
    link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    link.bind((0, 0))
    return link


def _dump(link: socket.socket, family: Family, *, over: bool = False) -> Iterator[tuple[bytes, bytes]]:
    """Of each connection the bytes that tell it from others (but for the client), and all its attributes, of
    which the first names it. With those that are over?"""
    flags = struct.pack("!I", _DST_NAT)
    body = _FAMILY.pack(_AF[family], 0, 0) + _attribute(_STATUS, flags) + _attribute(_STATUS_MASK, flags)
    link.send(_HEADER.pack(_HEADER.size + len(body), _GET, _REQUEST_DUMP, 1, 0) + body)
    while True:
        data = link.recv(_RECEIVE)
        at = 0
        while at + _HEADER.size <= len(data):
            size, kind = struct.unpack_from("=IH", data, at)
            if kind in (_DONE, _ERROR):
                return
            attributes = data[at + _BODY : at + size]
            key = _key(attributes, family, over=over)
            if key is not None:
                yield key, attributes
            at += (size + 3) & ~3


def _tuple_size(family: Family) -> int:
    """Of the attribute of one direction: headers, two addresses, protocol and two ports."""
    return 4 + 4 + 2 * (4 + (4 if family == 4 else 16)) + 4 + 3 * 8


def _key(attributes: bytes, family: Family, *, over: bool) -> bytes | None:
    """The protocol, where it went and who answers; None when it is not translated, or is over.

    The kernel writes both tuples first, each always in the same shape: addresses, then protocol and ports,
    every attribute with a header of four bytes and padded to four.
    """
    wide, size = 4 if family == 4 else 16, _tuple_size(family)
    rest = dict(_attributes(attributes[2 * size :]))
    (status,) = struct.unpack("!I", rest.get(_STATUS, bytes(4)))
    if not status & _DST_NAT:
        return None
    info = rest.get(_PROTOINFO, b"")
    if not over and len(info) > 8 and info[8] > _LAST_OPEN:  # nested: TCP, its state
        return None
    ports = 4 + 4 + 2 * (4 + wide) + 4
    went_to = attributes[ports - 4 - wide : ports - 4] + attributes[ports + 20 : ports + 22]
    answers_from = (
        attributes[size + 12 : size + 12 + wide] + attributes[size + ports + 12 : size + ports + 14]
    )
    return attributes[ports + 4 : ports + 5] + went_to + answers_from


def _translated(family: Family, key: bytes) -> Translated | None:
    wide = 4 if family == 4 else 16
    protocol = _PROTOCOLS.get(key[0])
    if protocol is None or len(key) != 5 + 2 * wide:
        return None
    backend = Backend(ip_address(key[3 + wide : 3 + 2 * wide]), int.from_bytes(key[-2:], "big"))
    port = int.from_bytes(key[1 + wide : 3 + wide], "big")
    return Translated(protocol, ip_address(key[1 : 1 + wide]), port, backend)


def _attribute(kind: int, payload: bytes) -> bytes:
    size = _ATTRIBUTE.size + len(payload)
    return _ATTRIBUTE.pack(size, kind) + payload + bytes(-size % 4)


def _attributes(data: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < _ATTRIBUTE.size:
            break
        found.append((kind & 0x3FFF, data[at + _ATTRIBUTE.size : at + size]))
        at += (size + 3) & ~3
    return found
