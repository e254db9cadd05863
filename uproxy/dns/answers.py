"""Answers as they go out: precomputed records, and how a message is put around them.

Pure. Owns order, sizes and truncation. An answer's records point into the question, which
always starts at offset 12, so they fit any message about the same name.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from uproxy.dns.wire import HEADER_BYTES, PLAIN_UDP_BYTES, Edns, Query, Rcode, Type

UDP_BYTES = 1232
"""No UDP answer is longer: what passes every path without fragments (DNS flag day 2020)."""
TCP_BYTES = 65535
AMPLIFICATION = 10
"""A UDP answer has at most this many times the octets of its query; what is left out comes by TCP."""
MOST_WITH_ADDRESSES = 100
"""More SRV records than this come without the addresses of their targets: these would not fit."""
_OPT = b"\0\0\x29" + UDP_BYTES.to_bytes(2)
_QR, _AA, _TC, _RD, _RA, _CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0010


Sets = dict[Type, list[bytes]]
"""Encoded records of one name, by type."""


class RecordSet:
    """The records of one name and type, encoded, and what may go with them."""

    __slots__ = ("additional", "asked", "records", "turn")

    def __init__(self, asked: bytes, records: tuple[bytes, ...], additional: tuple[bytes, ...] = ()) -> None:
        self.asked = asked
        """Type and class, as in a question."""
        self.records = records
        self.additional = additional
        """Addresses of the targets: left out when there is no room."""
        self.turn = 0
        """Which record comes first; the next answer starts one further."""

    def rotated(self) -> tuple[bytes, ...]:
        """The records, another one first each time."""
        records = self.records
        self.turn = turn = (self.turn + 1) % len(records)
        return records[turn:] + records[:turn]


class Reply(NamedTuple):
    """Everything in a message but the question; sections are encoded records."""

    rcode: Rcode
    answers: Sequence[bytes] = ()
    authority: Sequence[bytes] = ()
    additional: Sequence[bytes] = ()
    authoritative: bool = True


def udp_limit(asked_bytes: int, edns: Edns | None) -> int:
    """How long an answer by UDP may be, in bytes."""
    taken = PLAIN_UDP_BYTES if edns is None else edns.size
    return min(taken, UDP_BYTES, AMPLIFICATION * asked_bytes)


def render(query: Query, reply: Reply, limit: int, *, recursion: bool) -> bytes:
    """The message: whole, or as much as `limit` allows, with TC when an answer is missing (RFC 2181 9)."""
    question = query.packet[HEADER_BYTES : query.end]
    opt = _opt(query.edns, reply.rcode)
    room = limit - HEADER_BYTES - len(question) - len(opt)
    answers, room = _fitting(reply.answers, room)
    authority, room = _fitting(reply.authority, room)
    additional, room = _fitting(reply.additional, room)
    cut = len(answers) < len(reply.answers) or len(authority) < len(reply.authority)
    flags = _flags(query.packet, reply, cut=cut, recursion=recursion)
    counts = (1, len(answers), len(authority), len(additional) + bool(opt))
    head = query.packet[:2] + flags.to_bytes(2) + b"".join(count.to_bytes(2) for count in counts)
    return b"".join((head, question, *answers, *authority, *additional, opt))


def refusal(packet: bytes, rcode: Rcode) -> bytes:
    """A bare header, for a packet whose question cannot be read."""
    flags = _QR | int.from_bytes(packet[2:4]) & (0x7800 | _RD) | rcode
    return packet[:2] + flags.to_bytes(2) + bytes(8)


def cut_short(packet: bytes, end: int) -> bytes:
    """A header with TC and the question: come again by TCP. Never longer than the query."""
    flags = _QR | _TC | int.from_bytes(packet[2:4]) & _RD
    return packet[:2] + flags.to_bytes(2) + b"\0\1\0\0\0\0\0\0" + packet[HEADER_BYTES:end]


def _fitting(records: Iterable[bytes], room: int) -> tuple[list[bytes], int]:
    """The first records that have room, and the room left; none after one that has not."""
    taken: list[bytes] = []
    for record in records:
        if len(record) > room:
            return taken, 0
        taken.append(record)
        room -= len(record)
    return taken, room


def _flags(packet: bytes, reply: Reply, *, cut: bool, recursion: bool) -> int:
    asked = int.from_bytes(packet[2:4]) & (0x7800 | _RD | _CD)
    said = _AA * reply.authoritative | _TC * cut | _RA * recursion
    return _QR | asked | said | reply.rcode & 0xF


def _opt(edns: Edns | None, rcode: Rcode) -> bytes:
    """The answer's own OPT: only for a query that had one (RFC 6891 6.1.1)."""
    if edns is None:
        return b""
    return _OPT + bytes((rcode >> 4, 0, 0x80 if edns.do else 0, 0, 0, 0))
