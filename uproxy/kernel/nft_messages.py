"""Messages and attributes of nf_tables, as bytes. Pure.

Owns the encoding: what every message names, elements, parts of rules. Refuses to send anything (`nft.py`),
and to know what is said (`nft_commands.py`, `nft_statements.py`).

Numbers of attributes are those of linux/netfilter/nf_tables.h, and not named once more; each function names
the enumeration that it follows. Attributes' headers are in the machine's byte order, what is in them in the
network's, but for values that a rule has in the machine's (`nft_types.DataType.big_endian`).
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import NamedTuple

from uproxy.kernel.netlink import NESTED, attribute, attributes

NEW_TABLE, GET_TABLE, DELETE_TABLE, NEW_CHAIN, DELETE_CHAIN = 0, 1, 2, 3, 5
NEW_RULE, GET_RULE, DELETE_RULE, NEW_SET, DELETE_SET = 6, 7, 8, 9, 11
NEW_ELEMENT, GET_ELEMENT, DELETE_ELEMENT = 12, 13, 14
CREATE, APPEND = 0x400, 0x800
FAMILIES = {"inet": 1, "ip": 2, "arp": 3, "netdev": 5, "bridge": 7, "ip6": 10}
"""enum nf_inet_... of linux/netfilter.h."""
ELEMENTS = 3
"""The attribute that has them (enum nft_set_elem_list_attributes)."""
_ELEMENTS_MAX = 0xFFFF - 4
"""An attribute says its size in 16 bits."""
_VERDICTS = {"drop": 0, "accept": 1, "jump": -3, "goto": -4, "return": -5}
"""Those of nf_tables_core, and netfilter's."""


class Table(NamedTuple):
    """What all else is in."""

    family: str
    """One of FAMILIES."""
    name: str

    def __str__(self) -> str:
        return f"{self.family} {self.name}"


class Message(NamedTuple):
    """One of a transaction."""

    kind: int
    flags: int
    family: int
    body: bytes


class Verdict(NamedTuple):
    """What becomes of a packet."""

    verdict: str
    chain: str = ""
    """Where `jump` and `goto` lead."""

    def __str__(self) -> str:
        return f"{self.verdict} {self.chain}" if self.chain else self.verdict


class Element(NamedTuple):
    """Of a set, or of a map."""

    key: bytes
    last: bytes = b""
    """Of an interval, whose first value is `key`."""
    leads_to: bytes | Verdict = b""
    left_ms: int = 0
    """In so long it is forgotten, unless a rule remembers it anew."""


# ---- elements ----


def encode(element: Element, is_concatenation: bool = True) -> bytes:
    """With all that it has (enum nft_set_elem_attributes). Where values are single ones, an interval is two
    elements: the second is the first value that is not in it, if there is one."""
    key, last, leads_to, left_ms = element
    parts = _plain_key(key)
    if leads_to:
        parts += nest(2, verdict(leads_to) if isinstance(leads_to, Verdict) else value(leads_to))
    if left_ms:
        parts += attribute(5, struct.pack("!Q", left_ms))
    if last and is_concatenation:
        parts += nest(10, value(last))
    return nest(1, parts)


def interval_end(key: bytes) -> bytes:
    """The element from which on nothing is in an interval, up to the next."""
    is_end = 1
    return nest(1, _plain_key(key) + attribute(3, u32(is_end)))


def _plain_key(key: bytes) -> bytes:
    return nest(1, value(key))


def elements_of(message: Message) -> Iterator[tuple[int, bytes]]:
    """The keys that a message of elements has, and where each ends, counted from the message's first byte."""
    for kind, start, its in _with_places(message.body, 20):
        if kind == ELEMENTS:
            for _, at, element in _with_places(its, start):
                key = dict(attributes(element)).get(1, b"")
                yield at + len(element), dict(attributes(key)).get(1, b"")


def _with_places(data: bytes, start: int) -> Iterator[tuple[int, int, bytes]]:
    at = start
    for kind, its in attributes(data):
        yield kind, at + 4, its
        at += (len(its) + 7) & ~3


def chunks(elements: Iterable[bytes]) -> Iterator[bytes]:
    """As many in each as one attribute can hold."""
    some: list[bytes] = []
    size = 0
    for one in elements:
        if size + len(one) > _ELEMENTS_MAX:
            yield b"".join(some)
            some, size = [], 0
        some.append(one)
        size += len(one)
    if some:
        yield b"".join(some)


# ---- what messages name ----


@cache
def in_table(table: Table) -> bytes:
    """The first attribute of all."""
    return attribute(1, text(table.name))


def in_chain(table: Table, chain: str) -> bytes:
    """Of rules (enum nft_rule_attributes)."""
    return in_table(table) + attribute(2, text(chain))


def in_set(table: Table, name: str) -> bytes:
    """Of elements (enum nft_set_elem_list_attributes)."""
    return in_table(table) + attribute(2, text(name))


# ---- parts of rules ----


def expression(name: str, numbers: Mapping[int, int], others: Mapping[int, bytes] | None = None) -> bytes:
    """One instruction (enum nft_expr_attributes): `numbers` are attributes of 32 bits."""
    words = b"".join(attribute(kind, u32(its)) for kind, its in numbers.items())
    words += b"".join(attribute(kind, its) for kind, its in (others or {}).items())
    return nest(1, attribute(1, text(name)) + nest(2, words))


def immediate(register: int, data: bytes) -> bytes:
    """A constant: a `value`, or into register 0 a `verdict` (enum nft_immediate_attributes)."""
    return expression("immediate", {1: register}, {NESTED | 2: data})


def value(data: bytes) -> bytes:
    """A constant (enum nft_data_attributes)."""
    return attribute(1, data)


def verdict(its: Verdict) -> bytes:
    """The same, where verdicts are wanted (enum nft_verdict_attributes)."""
    chain = attribute(2, text(its.chain)) if its.chain else b""
    return nest(2, attribute(1, struct.pack("!i", _VERDICTS[its.verdict])) + chain)


# ---- attributes ----


def nest(kind: int, its: bytes) -> bytes:
    """An attribute of attributes."""
    return attribute(NESTED | kind, its)


def u32(its: int) -> bytes:
    """In the network's byte order."""
    return struct.pack("!I", its)


def text(its: str) -> bytes:
    """With the zero that ends it."""
    return its.encode() + b"\0"


def key_order(big_endian: bool) -> bytes:
    """User data of a set, for whoever lists it: NFTNL_UDATA_SET_KEYBYTEORDER. Every nft reads it."""
    return note_number(0, 2 if big_endian else 1)


def note(kind: int, its: bytes) -> bytes:
    """A part of user data (libnftnl's struct nftnl_udata)."""
    return bytes((kind, len(its))) + its


def note_number(kind: int, number: int) -> bytes:
    """The same, in the machine's byte order."""
    return note(kind, struct.pack("=I", number))
