"""Netlink: messages and attributes as bytes, and a socket that asks the kernel and waits for the answer.

Owns what all families of netlink(7) share. Refuses to know any of them: kinds, attributes and what they mean
are the caller's. Everything here blocks, for some tens of microseconds a question.
"""

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator, Sequence

ROUTE, NETFILTER, GENERIC = 0, 12, 16
REQUEST, ACK, DUMP = 1, 4, 0x300
ERROR, DONE = 2, 3
HEADER = struct.Struct("=IHHII")
"""Size, kind, flags, sequence, port."""
NESTED = 0x8000
_ATTRIBUTE = struct.Struct("=HH")
_KIND = 0x3FFF
"""Without NLA_F_NESTED and NLA_F_NET_BYTEORDER."""
_RECEIVE = 1 << 18
_INTERRUPTED = 0x10
"""NLM_F_DUMP_INTR: what is told had changed since the telling began."""
_DUMPS_MAX = 20
_AT_ONCE = 64
"""Acknowledgements have to fit into the socket's buffer."""


class Refused(OSError):
    """The kernel said no."""


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """A whole message."""
    return _padded(HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body)


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Kind, sequence and body of each message that came at once."""
    return ((kind, sequence, body) for kind, _, sequence, body in _with_flags(data))


def _with_flags(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    at = 0
    while at + HEADER.size <= len(data):
        size, kind, flags, sequence, _ = HEADER.unpack_from(data, at)
        if size < HEADER.size:
            return
        yield kind, flags, sequence, data[at + HEADER.size : at + size]
        at += (size + 3) & ~3


def errno_of(body: bytes) -> int:
    """What an ERROR or DONE says: 0, or an errno."""
    return -int.from_bytes(body[:4], sys.byteorder, signed=True)


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded. For one that holds others, `kind` is with NESTED."""
    return _padded(_ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind) + payload)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and payload of each attribute; what is cut off is left out."""
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < _ATTRIBUTE.size:
            return
        yield kind & _KIND, data[at + _ATTRIBUTE.size : at + size]
        at += (size + 3) & ~3


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


class Link:
    """A socket of one family, in the network namespace of the thread that makes it. One thread at a time."""

    def __init__(self, family: int) -> None:
        """Raises OSError when the kernel does not have the family."""
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        """For who has something else to send than questions; with numbers from `take_sequences`."""
        self.socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        """Ask no more."""
        self.socket.close()

    def take_sequences(self, count: int) -> int:
        """The first of so many numbers for messages, none of which is used again."""
        first = self._sequence + 1
        self._sequence += count
        return first

    def ask(self, kind: int, bodies: Sequence[bytes]) -> dict[int, int]:
        """Have all done, in this order; returns the errno of each that failed, by its index."""
        failed: dict[int, int] = {}
        for start in range(0, len(bodies), _AT_ONCE):
            some = self._ask(kind, bodies[start : start + _AT_ONCE])
            failed |= {start + index: number for index, number in some.items()}
        return failed

    def _ask(self, kind: int, bodies: Sequence[bytes]) -> dict[int, int]:
        first = self.take_sequences(len(bodies))
        self.socket.send(
            b"".join(message(kind, REQUEST | ACK, first + index, body) for index, body in enumerate(bodies))
        )
        failed, left = {}, len(bodies)
        while left:
            for answer, sequence, body in messages(self.socket.recv(_RECEIVE)):
                if answer == ERROR and first <= sequence < first + len(bodies):
                    left -= 1
                    if number := errno_of(body):
                        failed[sequence - first] = number
        return failed

    def dump(self, kind: int, body: bytes) -> Iterator[bytes]:
        """The bodies of all that there are, or nearly, should that change meanwhile. Raises Refused, if need
        be at the end."""
        return self.answers(kind, body, DUMP)

    def dump_whole(self, kind: int, body: bytes) -> list[bytes]:
        """The same, asked anew when something changed meanwhile. Raises Refused, EINTR when that goes on."""
        for _ in range(_DUMPS_MAX):
            found, is_whole = [], True
            for flags, its in self._answers(kind, body, DUMP):
                found.append(its)
                is_whole = is_whole and not flags & _INTERRUPTED
            if is_whole:
                return found
        raise Refused(errno.EINTR, os.strerror(errno.EINTR))

    def answers(self, kind: int, body: bytes, flags: int = ACK) -> Iterator[bytes]:
        """The bodies of what comes up to the end of the answer. Raises Refused, if need be at the end."""
        return (its for _, its in self._answers(kind, body, flags))

    def _answers(self, kind: int, body: bytes, flags: int) -> Iterator[tuple[int, bytes]]:
        """With the flags of each."""
        asked = self.take_sequences(1)
        self.socket.send(message(kind, REQUEST | flags, asked, body))
        while True:
            for answer, its_flags, sequence, its in _with_flags(self.socket.recv(_RECEIVE)):
                if sequence != asked:
                    continue  # of a question that nobody listened to up to the end
                if answer in (ERROR, DONE):
                    if number := errno_of(its):
                        raise Refused(number, os.strerror(number))
                    return
                yield its_flags, its
