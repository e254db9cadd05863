"""What messages of conntrack say. Pure.

Owns reading them (ctnetlink: linux/netfilter/nfnetlink_conntrack.h). There may be a hundred thousand at a
time, so where the attributes are is looked for once, and not in each (`Shape`). Refuses to ask
(`conntrack.py`).
"""

import socket
import struct
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from operator import itemgetter
from typing import Any, NamedTuple

from uproxy.kernel.conntrack_looks import Flow
from uproxy.kernel.netlink import attributes
from uproxy.model.frontend import Backend
from uproxy.model.names import Family, IPAddress, Protocol, Vip

PREFACE = struct.Struct("=BBH")
"""Family, version and a number, before the attributes."""
STATUS, STATUS_MASK = 3, 26
DST_NAT = 1 << 5
_PROTOINFO, _TO, _BACK, _IDENTITY = 4, 9, 10, 12
_VALUES = {STATUS: "I", _PROTOINFO: "8xB", _TO: "4xQ4xQ", _BACK: "4xQ4xQ", _IDENTITY: "4s"}
"""Of attributes: the state of a TCP connection is nested twice, packets and bytes once."""
_DEFAULTS = (0, 0, b"")
_ZERO, _NO_BYTES = -3, -1
"""Where they are, at the end of what is read; two zeros in a row."""
_LAST_OPEN = 5
"""TCP_CONNTRACK_CLOSE_WAIT: one side may still send. What follows is over."""
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


def translated(alike: bytes) -> Translated | None:
    """What a `Flow` has in common with others, in words; None for protocols that no Service has."""
    protocol, wide = _PROTOCOLS.get(alike[0]), len(alike) // 2 - 2
    if protocol is None:
        return None
    backend = Backend(ip_address(alike[3 + wide : 3 + 2 * wide]), int.from_bytes(alike[-2:], "big"))
    port = int.from_bytes(alike[1 + wide : 3 + wide], "big")
    return Translated(protocol, ip_address(alike[1 : 1 + wide]), port, backend)


def flows(messages: Iterable[bytes], family: Family, status: int = DST_NAT) -> Iterator[tuple[bytes, Flow]]:
    """Those that are translated, or have another `status`: each as it came, and as it is read."""
    shapes: dict[int, Shape] = {}
    least = PREFACE.size + 2 * _tuple_size(family)
    for its in messages:
        shape = shapes.get(len(its))
        values = shape.values(its) if shape is not None else None
        if shape is None or values is None:
            if len(its) < least:
                continue  # a protocol without ports
            shape = shapes[len(its)] = Shape(its, family)
            values = shape.values(its)
        if values is not None and values[shape.status] & status:
            yield its, shape.flow(values)


class Shape:
    """Where what is, in messages that have the same attributes as this one.

    The kernel writes both tuples first, each always in the same way: addresses, then protocol and ports.
    """

    def __init__(self, its: bytes, family: Family) -> None:
        """Looks for the attributes."""
        self._format, self._end, self._count = "!", 0, 0
        wide, answer = _wide(family), _tuple_size(family)
        address, ports = PREFACE.size + 12, PREFACE.size + 12 + 2 * wide + 4 + 4 + 4
        self._read(address + wide + 4, f"{wide}s")  # the address that the client has called
        self._read(ports, "1s")  # the protocol
        self._read(ports + 8, "2s")  # the client's port
        self._read(ports + 16, "2s")  # the port that it has called
        self._read(answer + address, f"{wide}s")  # the address that answers
        self._read(answer + ports + 8, "2s")  # its port
        found: dict[int, int] = {}
        headers: dict[int, bytes] = {}
        at = PREFACE.size + 2 * answer
        for kind, value in attributes(its[at:]):
            headers[self._read(at, "4s")] = its[at : at + 4]
            read = _VALUES.get(kind)
            if read is not None and len(value) >= struct.calcsize(f"!{read}"):
                found[kind] = self._read(at + 4, read)
            at += 4 + (len(value) + 3 & ~3)
        self._unpack = struct.Struct(self._format).unpack_from
        self._pick = itemgetter(_NO_BYTES, *headers)
        self._expected = (b"", *headers.values())
        self.status = found.get(STATUS, _ZERO)
        self._state = found.get(_PROTOINFO, _ZERO)
        self._identity = found.get(_IDENTITY, _NO_BYTES)
        to, back = found.get(_TO, _ZERO), found.get(_BACK, _ZERO)
        self._counters = itemgetter(to, to + 1, back, back + 1)

    def _read(self, at: int, value: str) -> int:
        """The index of what is read there, among `values`."""
        self._format += f"{at - self._end}x{value}"
        self._end = at + struct.calcsize(f"!{value}")
        index, self._count = self._count, len(struct.unpack(self._format, bytes(self._end)))
        return index

    def values(self, its: bytes) -> tuple[Any, ...] | None:
        """All that is read of a message of the same size; None when it has other attributes."""
        found = (*self._unpack(its), *_DEFAULTS)
        return found if self._pick(found) == self._expected else None

    def flow(self, values: tuple[Any, ...]) -> Flow:
        """What they say. Without numbers of its own a connection is told from others by its client's port."""
        called, protocol, client_port, port, answers, from_port = values[:6]
        alike = protocol + called + port + answers + from_port
        is_open = values[self._state] <= _LAST_OPEN
        return alike, values[self._identity] + client_port, is_open, self._counters(values)


def tuple_of(its: bytes, family: Family) -> bytes:
    """The attribute that names a connection."""
    return its[PREFACE.size : PREFACE.size + _tuple_size(family)]


def _tuple_size(family: Family) -> int:
    """Of the attribute of one direction: headers, two addresses, protocol and two ports."""
    return 4 + 4 + 2 * (4 + _wide(family)) + 4 + 3 * 8


def _wide(family: Family) -> int:
    return 4 if family == 4 else 16
