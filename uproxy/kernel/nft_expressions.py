"""What rules of nf_tables can ask a packet: a field of it, or what the kernel knows of it.

Owns how each is written for people and loaded for the kernel, and what has to be known of a packet before it
has such a field at all. Refuses to know what is done with it (`nft_statements.py`). Source: nft(8), PRIMARY
EXPRESSIONS and PAYLOAD EXPRESSIONS.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from uproxy.kernel import nft_types as types
from uproxy.kernel.netlink import NESTED
from uproxy.kernel.nft_messages import expression, value
from uproxy.kernel.nft_types import DataType, Key, registers
from uproxy.model.names import Family

EQUAL, NOT_EQUAL = 0, 1
"""enum nft_cmp_ops."""


class Need(NamedTuple):
    """What has to be so before a field is looked at."""

    what: str
    """`family` or `protocol`."""
    value: str


@dataclass(frozen=True, slots=True)
class Field:
    """Anything that is loaded into a register."""

    text: str
    type: DataType
    instruction: str
    numbers: tuple[tuple[int, int], ...]
    """Attributes of the instruction, but for where it loads to."""
    register: int = 1
    """The attribute that says where it loads to."""
    direction: int | None = None
    """Of connections (NFTA_CT_DIRECTION)."""
    needs: tuple[Need, ...] = ()

    def load(self, register: int) -> bytes:
        """The instruction."""
        return _load(self, register)

    def load_first(self, size: int) -> bytes:
        """The same with the first so many bytes alone; for what is in a header."""
        length = 4
        return expression(self.instruction, {self.register: 1, **dict(self.numbers), length: size})


@cache
def _load(field: Field, register: int) -> bytes:
    direction = {} if field.direction is None else {3: bytes((field.direction,))}
    return expression(field.instruction, {field.register: register, **dict(field.numbers)}, direction)


@cache
def compare(operator: int, data: bytes) -> bytes:
    """The first register with a constant (enum nft_cmp_attributes)."""
    return expression("cmp", {1: 1, 2: operator}, {NESTED | 3: value(data)})


@cache
def bitwise(mask: bytes, xor: bytes) -> bytes:
    """The first register: what is in it AND `mask`, XOR `xor` (enum nft_bitwise_attributes)."""
    numbers = {1: 1, 2: 1, 3: len(mask)}
    return expression("bitwise", numbers, {NESTED | 4: value(mask), NESTED | 5: value(xor)})


class Known:
    """What rules further left have found out about a packet, in a table of a family."""

    def __init__(self, family: str) -> None:
        self._family = family
        self._found: set[Need] = set()

    def learn(self, field: Field, shown: str) -> None:
        """A packet that goes on has this value in the field."""
        if what := _TELLING.get(field.text):
            self._found.add(Need(what, shown))

    def require(self, needs: Sequence[Need]) -> Iterator[bytes]:
        """The instructions that find out what is not known yet."""
        for need in needs:
            if need in self._found:
                continue
            self._found.add(need)
            asked = self._asked(need)
            if asked is not None:
                field, its = asked
                yield field.load(1)
                yield compare(EQUAL, field.type.pack(its))

    def _asked(self, need: Need) -> tuple[Field, int | str] | None:
        if need.what == "protocol":
            return L4PROTO, need.value
        if self._family == "inet":
            return NFPROTO, need.value
        if self._family == "bridge":
            return PROTOCOL, _ETHER_TYPES[need.value]
        return None  # a table of one family


_TELLING = {"meta nfproto": "family", "meta l4proto": "protocol"}
_ETHER_TYPES = {"ipv4": 0x0800, "ipv6": 0x86DD}


def load_all(fields: Sequence[Field], known: Known) -> Iterator[bytes]:
    """Values in a row from the first register on, as `key` has them in a set."""
    for field in fields:
        yield from known.require(field.needs)
    sizes = (field.type.size for field in fields)
    for field, register in zip(fields, registers(sizes), strict=True):
        yield field.load(register)


def show(fields: Sequence[Field]) -> str:
    """As nft(8) writes it."""
    return " . ".join(field.text for field in fields)


def key(fields: Sequence[Field]) -> Key:
    """What sets that are asked for them have."""
    return tuple(field.type for field in fields)


# ---- headers (enum nft_payload_attributes) ----

_NETWORK, _TRANSPORT = 1, 2
_TCP = (Need("protocol", "tcp"),)


def _payload(text: str, its: DataType, base: int, offset: int, needs: tuple[Need, ...] = ()) -> Field:
    return Field(text, its, "payload", ((2, base), (3, offset), (4, its.size)), needs=needs)


def _address(name: str, family: Family, offset: int) -> Field:
    header = "ip" if family == 4 else "ip6"
    needs = (Need("family", f"ipv{family}"),)
    return _payload(f"{header} {name}", types.ADDRESS[family], _NETWORK, offset, needs)


SADDR = {4: _address("saddr", 4, 12), 6: _address("saddr", 6, 8)}
DADDR = {4: _address("daddr", 4, 16), 6: _address("daddr", 6, 24)}
"""By family."""
TCP_DPORT = _payload("tcp dport", types.INET_SERVICE, _TRANSPORT, 2, _TCP)
TCP_FLAGS = _payload("tcp flags", types.TCP_FLAGS, _TRANSPORT, 13, _TCP)
TH_DPORT = _payload("th dport", types.INET_SERVICE, _TRANSPORT, 2)
"""Of whatever protocol."""


# ---- meta (enum nft_meta_keys) ----


def _meta(text: str, its: DataType, number: int) -> Field:
    return Field(text, its, "meta", ((2, number),))


PROTOCOL = _meta("meta protocol", types.ETHER_TYPE, 1)
MARK = _meta("meta mark", types.MARK, 3)
IIF = _meta("meta iif", types.INDEX, 4)
IIFNAME, OIFNAME = _meta("iifname", types.NAME, 6), _meta("oifname", types.NAME, 7)
NFPROTO, L4PROTO = _meta("meta nfproto", types.NFPROTO, 15), _meta("meta l4proto", types.INET_PROTO, 16)
PKTTYPE = _meta("meta pkttype", types.PACKET_TYPE, 19)
IIFKIND = _meta("meta iifkind", types.NAME, 26)


# ---- ct (enum nft_ct_keys) ----

_ORIGINAL, _REPLY = 0, 1


def _ct(text: str, its: DataType, number: int, direction: int | None = None) -> Field:
    return Field(text, its, "ct", ((2, number),), direction=direction)


CT_STATE = _ct("ct state", types.CT_STATE, 0)
CT_DIRECTION = _ct("ct direction", types.CT_DIRECTION, 1)
CT_STATUS = _ct("ct status", types.CT_STATUS, 2)
CT_ORIGINAL_DADDR = {
    4: _ct("ct original ip daddr", types.IPV4_ADDR, 20, _ORIGINAL),
    6: _ct("ct original ip6 daddr", types.IPV6_ADDR, 22, _ORIGINAL),
}
"""By family."""
CT_ORIGINAL_PROTO_DST = _ct("ct original proto-dst", types.INET_SERVICE, 12, _ORIGINAL)
CT_REPLY_PROTO_SRC = _ct("ct reply proto-src", types.INET_SERVICE, 11, _REPLY)


# ---- others ----

FIB_DADDR_TYPE = Field("fib daddr type", types.FIB_TYPE, "fib", ((2, 3), (3, 2)))
"""enum nft_fib_attributes: the type of an address, of the destination."""
SOCKET_TRANSPARENT = Field("socket transparent", types.BOOLEAN, "socket", ((1, 0),), register=2)
SOCKET_MARK = Field("socket mark", types.MARK, "socket", ((1, 1),), register=2)
"""enum nft_socket_keys."""


def numgen(turns: int) -> Field:
    """Counts by itself, from 0 up to `turns` (enum nft_ng_attributes)."""
    return Field(f"numgen inc mod {turns}", types.INTEGER, "numgen", ((2, turns), (3, 0), (4, 0)))
