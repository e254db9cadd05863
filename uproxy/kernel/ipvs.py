"""IPVS over netlink: virtual servers and their destinations, as the kernel has them.

Owns the messages of the generic netlink family IPVS (linux/ip_vs.h), the mark by which virtual servers are
known as ours, and a question beside: which addresses this node has (rtnetlink). Refuses to decide anything.
Everything here blocks, for some tens of microseconds a question; the caller has it done in a thread.

Written by hand, as `conntrack.py` is: counters of ten thousand destinations are read every second, which
takes a general library (pyroute2: some 0.1 ms a message, seen with conntrack) as long as that second.
"""

import errno
import os
import socket
import struct
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import NamedTuple

from uproxy.kernel.netlink import GENERIC, ROUTE, Link, Refused, attribute, attributes
from uproxy.model.frontend import Backend
from uproxy.model.names import ADDRESS_FAMILY, IPAddress, Protocol, Vip

OURS = 0x7570 << 16
"""Among the flags of a virtual server: bits that the kernel keeps and does not use, `up` in ASCII."""
_OURS_MASK = 0xFFFF << 16

_CONTROL, _GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 16, 3, 1, 2
_NEW_SERVICE, _SET_SERVICE, _DELETE_SERVICE, _GET_SERVICE = 1, 2, 3, 4
_NEW_DEST, _SET_DEST, _DELETE_DEST, _GET_DEST = 5, 6, 7, 8
_SERVICE, _DEST = 1, 2
_PERSISTENT = 1
_ONE_CLIENT = {4: b"\xff\xff\xff\xff", 6: struct.pack("=I", 128)}
"""Of persistence: a mask, or for IPv6 a prefix's length."""
_NUMBER = {Protocol.TCP: socket.IPPROTO_TCP, Protocol.UDP: socket.IPPROTO_UDP}
_PROTOCOL = {number: protocol for protocol, number in _NUMBER.items()}

_GET_ADDRESS, _LOOPBACK_INDEX = 22, 1


class Command(NamedTuple):
    """One change, encoded."""

    number: int
    body: bytes
    words: str


@dataclass(frozen=True, slots=True)
class Server:
    """A virtual server, but for its destinations."""

    scheduler: str
    affinity_timeout_s: int | None = None


class Traffic(NamedTuple):
    """What a destination has had."""

    connections: int = 0
    packets_in: int = 0
    packets_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


class Destination(NamedTuple):
    """An endpoint of a virtual server."""

    weight: int
    active: int
    """Connections that are established."""
    inactive: int
    """Those that begin, or are over but not forgotten yet; UDP flows."""
    traffic: Traffic


def new_server(vip: Vip, server: Server) -> Command:
    """It has no destinations yet, and refuses until it has."""
    return Command(_NEW_SERVICE, _service(vip, server), f"virtual server {vip}")


def set_server(vip: Vip, server: Server) -> Command:
    """Another scheduler, or timeout; connections stay."""
    return Command(_SET_SERVICE, _service(vip, server), f"virtual server {vip}")


def delete_server(vip: Vip) -> Command:
    """Its connections get no packet through any more."""
    return Command(_DELETE_SERVICE, _service(vip), f"end of virtual server {vip}")


def new_dest(vip: Vip, backend: Backend, weight: int) -> Command:
    """Masqueraded, as everything here."""
    return Command(_NEW_DEST, _service(vip) + _dest(backend, weight), f"{backend} of {vip}")


def set_dest(vip: Vip, backend: Backend, weight: int) -> Command:
    """With weight 0 it gets no new connections, and keeps those that it has."""
    return Command(_SET_DEST, _service(vip) + _dest(backend, weight), f"weight of {backend} of {vip}")


def delete_dest(vip: Vip, backend: Backend) -> Command:
    """Its connections get no packet through any more."""
    return Command(_DELETE_DEST, _service(vip) + _dest(backend), f"end of {backend} of {vip}")


def _service(vip: Vip, server: Server | None = None) -> bytes:
    words = _u16(1, ADDRESS_FAMILY[vip.family]) + _u16(2, _NUMBER[vip.protocol]) + attribute(3, vip.ip.packed)
    words += attribute(4, vip.port.to_bytes(2, "big"))
    if server is not None:
        timeout_s = server.affinity_timeout_s
        flags = OURS | (_PERSISTENT if timeout_s is not None else 0)
        words += attribute(6, server.scheduler.encode() + b"\0")
        words += attribute(7, struct.pack("=II", flags, _OURS_MASK | _PERSISTENT))
        words += _u32(8, timeout_s or 0) + attribute(9, _ONE_CLIENT[vip.family])
    return attribute(_SERVICE, words)


def _dest(backend: Backend, weight: int | None = None) -> bytes:
    words = attribute(1, backend.ip.packed.ljust(16, b"\0")) + attribute(2, backend.port.to_bytes(2, "big"))
    words += _u16(11, ADDRESS_FAMILY[backend.ip.version])
    if weight is not None:
        words += _u32(3, 0) + _u32(4, weight) + _u32(5, 0) + _u32(6, 0)
    return attribute(_DEST, words)


class Ipvs:
    """Speaks with the kernel about the network namespace of the thread that speaks first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._generic: Link | None = None
        self._family = 0

    def close(self) -> None:
        """It opens again by itself."""
        with self._lock:
            if self._generic is not None:
                self._generic.close()
                self._generic = None

    def servers(self, *, others: bool = False) -> Mapping[Vip, Server]:
        """Those that are ours, or all `others`. Raises Refused where there is no IPVS."""
        found = {}
        for body in self._dump(_GET_SERVICE, b""):
            its = dict(attributes(dict(attributes(body))[_SERVICE]))
            (flags,) = struct.unpack_from("=I", its[7])
            # Those that go by a firewall mark have no address.
            if (flags & _OURS_MASK != OURS) == others and 3 in its:
                vip = Vip(
                    _address(its[1], its[3]), _port(its[4]), _PROTOCOL[int.from_bytes(its[2], sys.byteorder)]
                )
                (timeout_s,) = struct.unpack("=I", its[8])
                scheduler = its[6].rstrip(b"\0").decode()
                found[vip] = Server(scheduler, timeout_s if flags & _PERSISTENT else None)
        return found

    def destinations(self, vip: Vip) -> dict[Backend, Destination]:
        """Of one virtual server. Raises Refused when it is not there."""
        found = {}
        for body in self._dump(_GET_DEST, _service(vip)):
            # Fixed places would be faster; this is fast enough, and does not depend on the kernel's order.
            its = dict(attributes(dict(attributes(body))[_DEST]))
            family = its.get(11, struct.pack("=H", ADDRESS_FAMILY[vip.family]))
            backend = Backend(_address(family, its[1]), _port(its[2]))
            weight, active, inactive = (struct.unpack("=I", its[kind])[0] for kind in (4, 7, 8))
            counters = dict(attributes(its[12]))
            traffic = Traffic(*(struct.unpack("=Q", counters[kind])[0] for kind in range(1, 6)))
            found[backend] = Destination(weight, active, inactive, traffic)
        return found

    def existing(self, vips: Sequence[Vip]) -> list[Vip]:
        """Those that have a virtual server, whoever made it."""
        bodies = [struct.pack("=BBH", _GET_SERVICE, 1, 0) + _service(vip) for vip in vips]
        with self._lock:
            failed = self._open().ask(self._family, bodies)
        return [vip for index, vip in enumerate(vips) if index not in failed]

    def change(self, commands: Sequence[Command]) -> None:
        """Program them in this order. Raises Refused for the first that failed; the others are programmed."""
        bodies = [struct.pack("=BBH", one.number, 1, 0) + one.body for one in commands]
        with self._lock:
            failed = self._open().ask(self._family, bodies)
        if failed:
            index, number = min(failed.items())
            raise Refused(number, f"{commands[index].words}: {os.strerror(number)}")

    def _dump(self, number: int, body: bytes) -> list[bytes]:
        with self._lock:
            link = self._open()
            return [its[4:] for its in link.dump(self._family, struct.pack("=BBH", number, 1, 0) + body)]

    def _open(self) -> Link:
        if self._generic is None:
            link = Link(GENERIC)
            try:
                self._family = _family_id(link)
            except OSError:
                link.close()
                raise
            self._generic = link
        return self._generic


def _family_id(link: Link) -> int:
    """The kernel loads the module when it is asked for the family."""
    body = struct.pack("=BBH", _GET_FAMILY, 1, 0) + attribute(_FAMILY_NAME, b"IPVS\0")
    for answer in link.answers(_CONTROL, body):
        return int.from_bytes(dict(attributes(answer[4:]))[_FAMILY_ID], sys.byteorder)
    raise Refused(errno.ENOENT, "no IPVS")


def node_addresses() -> set[IPAddress]:
    """Every address of this node that others can reach; not kube-proxy's VIPs, should it have left some."""
    link = Link(ROUTE)
    try:
        found = set()
        for body in link.dump_whole(_GET_ADDRESS, struct.pack("=BBBBI", 0, 0, 0, 0, 0)):
            family, _, _, _, index = struct.unpack_from("=BBBBI", body)
            its = dict(attributes(body[8:]))
            raw = its.get(2) or its.get(1)  # IFA_LOCAL: IFA_ADDRESS is the other end of a tunnel
            if raw is None or family not in ADDRESS_FAMILY.values() or _is_for_vips(index):
                continue
            ip = ip_address(raw)
            if not ip.is_loopback and not ip.is_link_local:
                found.add(ip)
        return found
    finally:
        link.close()


def _is_for_vips(index: int) -> bool:
    try:
        return index != _LOOPBACK_INDEX and socket.if_indextoname(index) == "kube-ipvs0"
    except OSError:
        return False


def _u16(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=H", value))


def _u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def _address(family: bytes, raw: bytes) -> IPAddress:
    return ip_address(raw[:4] if struct.unpack("=H", family)[0] == socket.AF_INET else raw[:16])


def _port(raw: bytes) -> int:
    return int.from_bytes(raw, "big")
