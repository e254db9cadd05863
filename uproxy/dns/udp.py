"""Queries by UDP: one socket for each address, several datagrams for each wake-up.

Owns the socket, and that an answer leaves from the address that was asked.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any

from uproxy.dns.front import Front, Send
from uproxy.dns.stats import DnsStats

_BATCH = 64
"""After so many datagrams others have a turn."""
_LONGEST_QUERY = 4096
_BUFFER_BYTES = 4 << 20
"""What may queue while something else has its turn."""
_IP_PKTINFO = 8  # not in Python's socket module
_ANCILLARY_BYTES = socket.CMSG_SPACE(20)
_Ancillary = list[tuple[int, int, bytes]]
_Client = tuple[Any, ...]


def bind_udp(ip: str, port: int) -> socket.socket:
    """A socket for queries to one address, or, for 0.0.0.0 and ::, to all of one family.

    Raises OSError.
    """
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if is_wildcard(ip) and family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        elif is_wildcard(ip):
            bound.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        bound.bind((ip, port))
    except OSError:
        bound.close()
        raise
    return bound


def is_wildcard(ip: str) -> bool:
    """Whether this stands for all addresses of the machine."""
    return ip in ("0.0.0.0", "::")


class UdpListener:
    """Answers what comes to one socket."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, bound: socket.socket, front: Front, stats: DnsStats
    ) -> None:
        self._loop = loop
        self._socket = bound
        self._front = front
        self._stats = stats
        self._family = 6 if bound.family == socket.AF_INET6 else 4
        self._read: Callable[[], bool] = self._read_one
        if is_wildcard(bound.getsockname()[0]):
            self._read = self._read_one_of_many
        loop.add_reader(bound.fileno(), self._ready)

    def close(self) -> None:
        """Answer nothing more; what is being asked upstream is not sent."""
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _ready(self) -> None:
        read = self._read
        for _ in range(_BATCH):
            if not read():
                return

    def _read_one(self) -> bool:
        """Answer one datagram; False when there is none."""
        try:
            packet, client = self._socket.recvfrom(_LONGEST_QUERY)
        except BlockingIOError:
            return False
        except OSError:
            return True  # an earlier answer was refused: ICMP tells the socket
        answer = self._front.take_datagram(packet, client[0], self._family, lambda: self._later(client, []))
        if isinstance(answer, bytes):
            self._send(answer, client, [])
        return True

    def _read_one_of_many(self) -> bool:
        """The same on a wildcard address, where the kernel says which address was asked."""
        try:
            packet, told, _, client = self._socket.recvmsg(_LONGEST_QUERY, _ANCILLARY_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            return True
        asked = _answer_from(told)
        answer = self._front.take_datagram(
            packet, client[0], self._family, lambda: self._later(client, asked)
        )
        if isinstance(answer, bytes):
            self._send(answer, client, asked)
        return True

    def _later(self, client: _Client, asked: _Ancillary) -> Send:
        def send(answer: bytes) -> None:
            if self._socket.fileno() >= 0:
                self._send(answer, client, asked)

        return send

    def _send(self, answer: bytes, client: _Client, asked: _Ancillary) -> None:
        try:
            if asked:
                self._socket.sendmsg((answer,), asked, 0, client)
            else:
                self._socket.sendto(answer, client)
        except OSError:  # no room, or no way back: a client asks again
            self._stats.dropped["not sent"] += 1


def _answer_from(told: _Ancillary) -> _Ancillary:
    """The kernel's note on where a datagram went, as a note on where the answer comes from.

    The interface is left open: an answer may leave by another than the query came in.
    """
    for level, kind, data in told:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
            local = data[4:8]  # ipi_spec_dst: for a broadcast, the own address
            return [(level, kind, struct.pack("i4s4x", 0, local))]
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            scope = data[16:20] if data[:2] == b"\xfe\x80" else bytes(4)
            return [(level, kind, data[:16] + scope)]
    return []
