"""Transactions of nf_tables over one netlink socket, without libnftables.

Owns the socket: a batch goes out in one call, and is in effect as a whole or not at all; counters come back.
Refuses to know what messages say (`nft_messages.py`). libnftables asks for all sets of the machine before
each transaction, which takes longer than the transaction.

No generation is named in a batch: what others do to their tables meanwhile is no matter, and what is wrong
with ours a message finds out. Sources: linux/netfilter/nfnetlink.h, nfnetlink.c (`nfnetlink_rcv_batch`),
netlink(7).
"""

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from uproxy.errors import CommandFailed
from uproxy.kernel.netlink import (
    ACK,
    ERROR,
    NETFILTER,
    REQUEST,
    Link,
    attributes,
    errno_of,
    message,
    messages,
)
from uproxy.kernel.nft_messages import GET_ELEMENT, Message, of_set

_NF_TABLES, _INET, _LIST = 10, 1, 3
_BEGIN, _END = 16, 17
_KEY, _EXPIRATION, _VALUE = 1, 5, 1
"""Of an element, and of its key (enum nft_set_elem_attributes, enum nft_data_attributes)."""
_ABOUT = struct.Struct("!BBH")
_RECEIVE = 1 << 17
_SOL_NETLINK, _CAP_ACK = 270, 10
_SO_SNDBUFFORCE = 32
_SEND_MORE = 1 << 16
"""The kernel wants the buffer to be longer than what is sent."""


class Counted(NamedTuple):
    """An element of a set that counts."""

    key: bytes
    packets: int


class NftNetlink:
    """Speaks with the kernel about the network namespace of the thread that speaks first. Calls block, for as
    long as somebody else's transaction takes; one thread at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._link: Link | None = None

    def close(self) -> None:
        """It opens again by itself."""
        with self._lock:
            if self._link is not None:
                self._link.close()
                self._link = None

    def commit(self, messages: Sequence[Message]) -> None:
        """One transaction. Raises CommandFailed, and then nothing has changed."""
        if not messages:
            return
        with self._lock:
            try:
                self._commit(self._open(), messages)
            except OSError as error:
                raise CommandFailed(f"nf_tables: {error.strerror}") from error

    def counters(self, name: str, key_size: int) -> list[Counted]:
        """All elements of a set. That others program meanwhile (the kernel has a flag for it) is no matter:
        this set they leave alone. Raises CommandFailed."""
        layout = _element(key_size)
        whole = (some for some in self._elements(name) if len(some) % layout.size == 0)
        return [Counted(*its) for some in whole for its in layout.iter_unpack(some)]

    def clients(self, name: str) -> list[tuple[bytes, int]]:
        """All that a set of clients remembers: addresses, and for how many ms more. Raises CommandFailed."""
        return [its for some in self._elements(name) for its in _remembered(some)]

    def _elements(self, name: str) -> list[bytes]:
        """Of a set, as many at a time as one message has. Raises CommandFailed."""
        question = _ABOUT.pack(_INET, 0, 0) + of_set(name)
        with self._lock:
            try:
                bodies = list(self._open().dump(_NF_TABLES << 8 | GET_ELEMENT, question))
            except OSError as error:
                raise CommandFailed(f"nf_tables: elements of {name}: {error.strerror}") from error
        return [dict(attributes(body[_ABOUT.size :])).get(_LIST, b"") for body in bodies]

    def _open(self) -> Link:
        if self._link is None:
            self._link = Link(NETFILTER)
            # Without this every refusal has the whole message with it.
            self._link.socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        return self._link

    def _commit(self, link: Link, messages: Sequence[Message]) -> None:
        first = link.take_sequences(len(messages) + 2)
        parts = [_edge(_BEGIN, first)]
        last = len(messages)
        for index, its in enumerate(messages, 1):
            # The answer to the last one says that all are in effect.
            flags = its.flags | (ACK if index == last else 0)
            parts.append(_framed(its.kind, flags, first + index, its.body))
        parts.append(_edge(_END, first + last + 1))
        data = b"".join(parts)
        _make_room(link.socket, len(data) + _SEND_MORE)
        link.socket.send(data)
        refusals = _answers(link.socket, first, first + last + 1)
        for index, number in sorted(refusals.items()):
            if number:
                words = messages[index - 1].words if 0 < index <= last else "transaction"
                raise CommandFailed(f"nf_tables: {words}: {os.strerror(number)}")
        if last not in refusals:
            raise CommandFailed("nf_tables: no answer to a transaction")


def _answers(link: socket.socket, first: int, end: int) -> dict[int, int]:
    """By message, what the kernel said: 0 or an errno. It has answered when sending returns."""
    found: dict[int, int] = {}
    while True:
        try:
            data = link.recv(_RECEIVE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return found
        except OSError as error:
            # More refusals than the socket holds. The first ones are told first.
            if error.errno != errno.ENOBUFS:
                raise
            found.setdefault(0, errno.ENOBUFS)
            continue
        for kind, sequence, body in messages(data):
            # What is left of a question that failed before has another number.
            if kind == ERROR and first <= sequence <= end:
                number = errno_of(body)
                found[sequence - first] = found.get(sequence - first) or number


def _remembered(elements: bytes) -> Iterator[tuple[bytes, int]]:
    for _, element in attributes(elements):
        its = dict(attributes(element))
        key = dict(attributes(its.get(_KEY, b""))).get(_VALUE)
        if key is not None and _EXPIRATION in its:
            yield key, int.from_bytes(its[_EXPIRATION], "big")


def _make_room(link: socket.socket, size: int) -> None:
    try:
        link.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, size)
    except PermissionError:
        # Root of a user namespace: as much as the machine lets everybody have.
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)


def _element(key_size: int) -> struct.Struct:
    """An element with a counter, which the kernel writes always in the same shape: NFTA_LIST_ELEM with
    NFTA_SET_ELEM_KEY with NFTA_DATA_VALUE, and NFTA_SET_ELEM_EXPR with `counter`, its bytes and packets."""
    return struct.Struct(f"!12x{key_size}s4x12x4x4x8x4xQ")


def _edge(kind: int, sequence: int) -> bytes:
    """Where a batch begins, or ends."""
    return message(kind, REQUEST, sequence, _ABOUT.pack(0, 0, _NF_TABLES))


def _framed(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return message(_NF_TABLES << 8 | kind, REQUEST | flags, sequence, _ABOUT.pack(_INET, 0, 0) + body)
