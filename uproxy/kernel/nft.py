"""Transactions of nf_tables over one netlink socket, without libnftables.

Owns the socket: a batch goes out in one call, and is in effect as a whole or not at all; counters come back.
Refuses to know what messages say (`nft_commands.py`). libnftables asks for all sets of the machine before
each transaction, which takes longer than the transaction, and crashes on what some other program wrote
(docs/decisions/0011-netlink.md). Here no table is looked at but the one that is named.

No generation is named in a batch: what others do to their tables meanwhile is no matter, and what is wrong
with ours a message finds out. Sources: linux/netfilter/nfnetlink.h, nfnetlink.c (`nfnetlink_rcv_batch`),
netlink(7).
"""

import errno
import os
import socket
import struct
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

from uproxy.errors import CommandFailed
from uproxy.kernel import nft_messages as nft
from uproxy.kernel.netlink import (
    ACK,
    ERROR,
    HEADER,
    NETFILTER,
    REQUEST,
    Link,
    attribute,
    attributes,
    errno_of,
    message,
    messages,
)
from uproxy.kernel.nft_commands import AddElements, Command, DeleteElements, DeleteTable, rendered
from uproxy.kernel.nft_messages import Element, Message, Table

_NF_TABLES, _LIST = 10, 3
_BEGIN, _END = 16, 17
_KEY, _EXPIRATION, _VALUE = 1, 5, 1
"""Of an element, and of its key (enum nft_set_elem_attributes, enum nft_data_attributes)."""
_COMMENT, _USER_DATA = 0, 7
_ABOUT = struct.Struct("!BBH")
_RECEIVE = 1 << 17
_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11
_OFFSET = 2
"""Which part of a message is wrong (enum nlmsgerr_attrs)."""
_SO_SNDBUFFORCE = 32
_SEND_MORE = 1 << 16
"""The kernel wants the buffer to be longer than what is sent."""
_ABSENT = {errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL}
"""Where the kernel has no nfnetlink, no nf_tables, or not for this family."""
_NOTHING_OF_OURS = _ABSENT | {errno.ENOENT, errno.EPERM, errno.EACCES}
"""Who may not ask may not have made anything."""


class Counted(NamedTuple):
    """An element of a set that counts."""

    key: bytes
    packets: int


class ElementRefused(CommandFailed):
    """The kernel has named one element that it does not take; without it the rest might be taken."""

    def __init__(self, words: str, set_name: str, key: bytes) -> None:
        super().__init__(words)
        self.set_name = set_name
        self.key = key


class _Refusal(NamedTuple):
    """What the kernel said to one message."""

    number: int
    """An errno, or 0."""
    offset: int = 0
    """Of the part that is wrong, from the message's beginning, where it says that."""


class NftNetlink:
    """Speaks with the kernel about the network namespace of the thread that speaks first. Calls block, for as
    long as somebody else's transaction takes; one thread at a time. To be kept: when a socket is closed the
    kernel waits for its work of before, which takes longer than a transaction (nf_tables_api.c,
    `nft_rcv_nl_event`)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._link: Link | None = None

    def close(self) -> None:
        """It opens again by itself."""
        with self._lock:
            if self._link is not None:
                self._link.close()
                self._link = None

    def commit(self, commands: Iterable[Command]) -> None:
        """One transaction. Raises CommandFailed, and then nothing has changed."""
        self._send(list(rendered(commands)), to_be_kept=True)

    def check(self, commands: Iterable[Command]) -> None:
        """Have the kernel take all of it, and let it go again. Raises CommandFailed."""
        self._send(list(rendered(commands)), to_be_kept=False)

    def has_table(self, table: Table) -> bool:
        """Whether it is there. Raises CommandFailed when the kernel does not say."""
        question = _ABOUT.pack(nft.FAMILIES[table.family], 0, 0) + nft.in_table(table)
        with self._lock:
            try:
                return any(
                    True for _ in list(self._open().answers(_NF_TABLES << 8 | nft.GET_TABLE, question))
                )
            except OSError as error:
                if error.errno in _NOTHING_OF_OURS:
                    return False
                raise CommandFailed(f"nf_tables: table {table}: {error.strerror}") from error

    def comments(self, table: Table, chain: str) -> list[str]:
        """Those of the rules of a chain; none where there is no such chain. Raises CommandFailed when the
        kernel does not say."""
        question = _ABOUT.pack(nft.FAMILIES[table.family], 0, 0) + nft.in_table(table)
        question += attribute(2, nft.text(chain))
        with self._lock:
            try:
                found = self._open().dump_whole(_NF_TABLES << 8 | nft.GET_RULE, question)
            except OSError as error:
                if error.errno in _NOTHING_OF_OURS:
                    return []
                raise CommandFailed(f"nf_tables: rules of {chain}: {error.strerror}") from error
        return [comment for body in found if (comment := _comment(dict(attributes(body[_ABOUT.size :]))))]

    def counters(self, table: Table, name: str, key_size: int) -> list[Counted]:
        """All elements of a set. That others program meanwhile (the kernel has a flag for it) is no matter:
        this set they leave alone. Raises CommandFailed."""
        layout = _element(key_size)
        whole = (some for some in self._elements(table, name) if len(some) % layout.size == 0)
        return [Counted(*its) for some in whole for its in layout.iter_unpack(some)]

    def clients(self, table: Table, name: str) -> list[tuple[bytes, int]]:
        """All that a set of clients remembers: addresses, and for how many ms more. Raises CommandFailed."""
        return [its for some in self._elements(table, name) for its in _remembered(some)]

    def _elements(self, table: Table, name: str) -> list[bytes]:
        """Of a set, as many at a time as one message has. Raises CommandFailed."""
        question = _ABOUT.pack(nft.FAMILIES[table.family], 0, 0) + nft.in_set(table, name)
        with self._lock:
            try:
                bodies = list(self._open().dump(_NF_TABLES << 8 | nft.GET_ELEMENT, question))
            except OSError as error:
                raise CommandFailed(f"nf_tables: elements of {name}: {error.strerror}") from error
        return [dict(attributes(body[_ABOUT.size :])).get(_LIST, b"") for body in bodies]

    def _open(self) -> Link:
        if self._link is None:
            self._link = Link(NETFILTER)
            weakref.finalize(self, self._link.close)
            # Without this every refusal has the whole message with it.
            self._link.socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
            self._link.socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        return self._link

    def _send(self, batch: Sequence[tuple[Command, Message]], to_be_kept: bool) -> None:
        if not batch:
            return
        with self._lock:
            try:
                link = self._open()
                answers = _transact(link, [its for _, its in batch], to_be_kept)
            except OSError as error:
                raise CommandFailed(_sending(error)) from error
        last = len(batch)
        for index, refusal in sorted(answers.items()):
            if refusal.number:
                raise _told(refusal, batch[index - 1] if 0 < index <= last else None)
        if last not in answers:
            raise CommandFailed("nf_tables: no answer to a transaction")


def _transact(link: Link, batch: Sequence[Message], to_be_kept: bool) -> dict[int, _Refusal]:
    """What the kernel said, by message. A batch without its end is let go."""
    first, last = link.take_sequences(len(batch) + 2), len(batch)
    parts = [_edge(_BEGIN, first)]
    for index, its in enumerate(batch, 1):
        # The answer to the last one says that all are in effect.
        flags = its.flags | (ACK if index == last else 0)
        parts.append(_framed(its, flags, first + index))
    if to_be_kept:
        parts.append(_edge(_END, first + last + 1))
    data = b"".join(parts)
    _make_room(link.socket, len(data) + _SEND_MORE)
    link.socket.send(data)
    return _answers(link.socket, first, first + last + 1)


def _answers(link: socket.socket, first: int, end: int) -> dict[int, _Refusal]:
    """By message, what the kernel said. It has answered when sending returns."""
    found: dict[int, _Refusal] = {}
    while True:
        try:
            data = link.recv(_RECEIVE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return found
        except OSError as error:
            # More refusals than the socket holds. The first ones are told first.
            if error.errno != errno.ENOBUFS:
                raise
            found.setdefault(0, _Refusal(errno.ENOBUFS))
            continue
        for kind, sequence, body in messages(data):
            # What is left of a question that failed before has another number.
            if kind == ERROR and first <= sequence <= end:
                before = found.get(sequence - first)
                if before is None or not before.number:
                    found[sequence - first] = _refusal(body)


def _refusal(body: bytes) -> _Refusal:
    told = dict(attributes(body[4 + HEADER.size :]))
    return _Refusal(errno_of(body), struct.unpack("=I", told.get(_OFFSET, bytes(4)))[0])


def _told(refusal: _Refusal, its: tuple[Command, Message] | None) -> CommandFailed:
    reason = os.strerror(refusal.number)
    if its is None:
        return CommandFailed(_absent() if refusal.number in _ABSENT else f"nf_tables: transaction: {reason}")
    command, sent = its
    if refusal.offset and isinstance(command, AddElements | DeleteElements):
        for end, key in nft.elements_of(sent):
            if refusal.offset < end:
                shown = command.set.show(Element(key))
                words = f"nf_tables: element {shown} of {command.set.name}: {reason}"
                return ElementRefused(words, command.set.name, key)
    return CommandFailed(f"nf_tables: {command.words}: {reason}")


def _sending(error: OSError) -> str:
    return _absent() if error.errno in _ABSENT else f"nf_tables: {error.strerror}"


def _absent() -> str:
    return "the kernel has no nf_tables"


def _comment(its: dict[int, bytes]) -> str:
    data = its.get(_USER_DATA, b"")
    while len(data) > 2:
        kind, size = data[0], data[1]
        if kind == _COMMENT:
            return data[2 : 2 + size].rstrip(b"\0").decode(errors="replace")
        data = data[2 + size :]
    return ""


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


def _framed(its: Message, flags: int, sequence: int) -> bytes:
    body = _ABOUT.pack(its.family, 0, 0) + its.body
    return message(_NF_TABLES << 8 | its.kind, REQUEST | flags, sequence, body)


def remove_table(table: Table) -> list[str]:
    """Remove the table of any run; returns what was there, in words. Raises CommandFailed. Blocks."""
    with closing(NftNetlink()) as link:
        if not link.has_table(table):
            return []
        link.commit([DeleteTable(table)])
    return [f"nftables table {table}"]
