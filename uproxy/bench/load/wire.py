"""The bytes of the `bench` protocol, in Python; native/wire.h says what they mean.

Owns messages as bytes, out and in. Refuses sockets.
"""

import struct
from enum import IntEnum
from typing import NamedTuple

HEADER = 32
NAME = 16
LONGEST = 1 << 20

_MAGIC = 0x7570
_HEADER = struct.Struct(">HBxIQ16s")
_PERIOD = 251
_CHECKED = 64
_PATTERN = bytes(range(_PERIOD)) * (LONGEST // _PERIOD + 1)


class Kind(IntEnum):
    """What a message is for."""

    EXCHANGE = 1
    REPLY = 2
    UPLOAD = 3
    DOWNLOAD = 4
    BOTH = 5
    DATA = 6
    END = 7


class Header(NamedTuple):
    """The first 32 bytes of a message."""

    kind: Kind
    length: int
    number: int
    """What wire.h has at offset 8: `received`, or reply_length above 32 bits of sequence."""
    name: bytes = b""

    @property
    def reply_length(self) -> int:
        """Bytes asked for."""
        return self.number >> 32

    @property
    def sequence(self) -> int:
        """Which request a REPLY belongs to."""
        return self.number & 0xFFFFFFFF


class Mismatch(Exception):
    """Bytes that are not this protocol, or not the ones that were sent."""


def message(header: Header) -> bytes:
    """Return a whole message: its header, and the body that belongs there."""
    head = _HEADER.pack(_MAGIC, header.kind, header.length, header.number, header.name)
    return head + _PATTERN[HEADER : header.length]


def exchange(length: int, reply_length: int, sequence: int) -> bytes:
    """Return a request for a reply of `reply_length`."""
    return message(Header(Kind.EXCHANGE, length, reply_length << 32 | sequence))


class Incoming:
    """A message on its way in, taken as its bytes come."""

    __slots__ = ("_head", "got", "header")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin the next message."""
        self.got = 0
        self.header = Header(Kind.DATA, LONGEST, 0)
        self._head = b""

    @property
    def whole(self) -> bool:
        """Whether the last byte has come."""
        return self.got == self.header.length

    def feed(self, data: bytes) -> int:
        """Take bytes of this message, and return how many were its.

        Raises Mismatch.
        """
        used = 0
        if self.got < HEADER:
            used = self._feed_header(data)
        if self.got < HEADER:
            return used
        taken = min(len(data) - used, self.header.length - self.got)
        self._check(data, used, taken)
        self.got += taken
        return used + taken

    def _feed_header(self, data: bytes) -> int:
        piece = data[: HEADER - self.got]
        self._head += piece
        self.got += len(piece)
        if self.got == HEADER:
            self.header = _decode(self._head)
        return len(piece)

    def _check(self, data: bytes, start: int, taken: int) -> None:
        # A long piece at both ends: cheap, and what a proxy loses or shifts shows there.
        length = taken if taken <= 2 * _CHECKED else _CHECKED
        for offset in (0, taken - length):
            at = self.got + offset
            if data[start + offset : start + offset + length] != _PATTERN[at : at + length]:
                raise Mismatch


def _decode(head: bytes) -> Header:
    magic, kind, length, number, name = _HEADER.unpack(head)
    if magic != _MAGIC or not HEADER <= length <= LONGEST or kind not in iter(Kind):
        raise Mismatch
    return Header(Kind(kind), length, number, name)


def name_of(header: Header) -> str:
    """Return the server's name."""
    return header.name.rstrip(b"\0").decode(errors="replace")
