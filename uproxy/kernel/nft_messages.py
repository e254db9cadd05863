"""Messages of nf_tables, as bytes. Pure.

Owns the encoding of what the handoff changes while it runs: elements, chains with their rules, sets of
clients. Refuses to send anything (`nft.py`), and to know what it means (`handoff/nft_batch.py`). A message
here says what libnftables would say, so that `nft list ruleset` prints it.

Numbers of attributes are those of linux/netfilter/nf_tables.h, and not named once more; each function names
the enumeration that it follows. Attributes' headers are in the machine's byte order, what is in them in the
network's, but for turns, which a rule counts in the machine's. Every part of a concatenated key is padded to
four bytes, as registers are.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from uproxy.kernel.netlink import NESTED, attribute
from uproxy.model.names import Family, IPAddress, Protocol

TABLE = "uproxy-handoff"
_TABLE = TABLE.encode() + b"\0"
_NEW_CHAIN, _DELETE_CHAIN, _NEW_RULE, _DELETE_RULE = 3, 5, 6, 8
_NEW_SET, _DELETE_SET, _NEW_ELEMENT, GET_ELEMENT, _DELETE_ELEMENT = 9, 11, 12, 13, 14
_CREATE, _APPEND = 0x400, 0x800

_ELEMENTS_MAX = 0xFFFF - 4
"""An attribute says its size in 16 bits."""

_GOTO = struct.pack("!i", -4)
"""NFT_GOTO of nf_tables_core's verdicts."""
_NFPROTO = {4: 2, 6: 10}
_NUMBER = {Protocol.TCP: 6, Protocol.UDP: 17}
_SOURCE = {4: 12, 6: 8}
"""Where the address is in the network header."""
_ADDRESS_TYPE, _INTEGER_TYPE, _PORT_TYPE, _TYPE_BITS = {4: 7, 6: 8}, 4, 13, 6
"""What libnftables calls types; the kernel only keeps the numbers."""
_ANONYMOUS, _CONSTANT, _MAP, _TIMEOUT, _EVALUATED = 1, 2, 8, 0x10, 0x20
_VERDICTS = 0xFFFFFF00
_BIG_ENDIAN, _HOST_ENDIAN = struct.pack("=BBI", 0, 4, 2), struct.pack("=BBI", 0, 4, 1)
"""NFTNL_UDATA_SET_KEYBYTEORDER, for whoever lists the set."""
_NETWORK_HEADER, _DESTINATION_FIELD = {4: 12, 6: 13}, {4: 12, 6: 9}
_TRANSPORT_HEADER = {Protocol.TCP: 8, Protocol.UDP: 6}
"""Headers and their fields as libnftables numbers them (enum proto_desc_id)."""
_ANY_NAME = b"__map%d\0"
"""The kernel counts them."""
_R1, _R2, _WORD_2 = 1, 2, 9
"""Registers of 16 bytes, and the second word of the first."""


class Message(NamedTuple):
    """One of a transaction."""

    kind: int
    flags: int
    body: bytes
    words: str
    """What it is about, should the kernel refuse it."""


# ---- values ----


def port(number: int) -> bytes:
    """A port as a part of a key."""
    return number.to_bytes(2, "big") + b"\0\0"


def destination(ip: IPAddress, its_port: int) -> bytes:
    """An address with a port, as a part of a key, or as what is translated to."""
    return ip.packed + port(its_port)


def protocol(its: Protocol) -> bytes:
    """A protocol as a part of a key."""
    return bytes((_NUMBER[its], 0, 0, 0))


def turn(number: int) -> bytes:
    """A key: `numgen` counts in the machine's byte order."""
    return struct.pack("=I", number)


def value(data: bytes) -> bytes:
    """What an element of a map leads to (enum nft_data_attributes)."""
    return attribute(1, data)


def goto(chain: str) -> bytes:
    """The same, in a map of verdicts (enum nft_verdict_attributes)."""
    return _nest(2, attribute(1, _GOTO) + attribute(2, _text(chain)))


def element(key: bytes, leads_to: bytes = b"") -> bytes:
    """Of a set, or with `value` or `goto` of a map (enum nft_set_elem_attributes). One that is deleted needs
    no more than its key."""
    return _nest(1, _nest(1, attribute(1, key)) + (_nest(2, leads_to) if leads_to else b""))


def client(ip: bytes, left_ms: int) -> bytes:
    """An element of `add_clients` that is forgotten in so long, unless a rule remembers it anew."""
    return _nest(1, _nest(1, attribute(1, ip)) + attribute(5, struct.pack("!Q", left_ms)))


# ---- messages ----


def add_elements(name: str, elements: Iterable[bytes]) -> Iterator[Message]:
    """Into one set, by as many messages as they need. A set that counts adds the counters."""
    for some in _chunks(elements):
        yield Message(_NEW_ELEMENT, _CREATE, of_set(name) + _nest(3, some), f"elements of {name}")


def delete_elements(name: str, elements: Iterable[bytes]) -> Iterator[Message]:
    """Out of one set."""
    for some in _chunks(elements):
        yield Message(_DELETE_ELEMENT, 0, of_set(name) + _nest(3, some), f"deleted elements of {name}")


def of_set(name: str) -> bytes:
    """Names a set whose elements a message is about (enum nft_set_elem_list_attributes)."""
    return attribute(1, _TABLE) + attribute(2, _text(name))


def add_chain(name: str) -> Message:
    """A chain that others lead to (enum nft_chain_attributes)."""
    return Message(_NEW_CHAIN, _CREATE, attribute(1, _TABLE) + attribute(3, _text(name)), f"chain {name}")


def delete_chain(name: str) -> Message:
    """It has to be empty."""
    body = attribute(1, _TABLE) + attribute(3, _text(name))
    return Message(_DELETE_CHAIN, 0, body, f"end of chain {name}")


def flush_chain(name: str) -> Message:
    """Without its rules."""
    body = attribute(1, _TABLE) + attribute(2, _text(name))
    return Message(_DELETE_RULE, 0, body, f"rules of chain {name}")


def add_rule(chain: str, expressions: Sequence[bytes]) -> Message:
    """At the end of a chain (enum nft_rule_attributes)."""
    body = attribute(1, _TABLE) + attribute(2, _text(chain)) + _nest(4, b"".join(expressions))
    return Message(_NEW_RULE, _CREATE | _APPEND, body, f"a rule of chain {chain}")


def add_clients(name: str, identity: int, family: Family, timeout_s: int, most: int) -> Message:
    """A set of addresses that rules fill, and that forgets them (enum nft_set_attributes)."""
    its = attribute(3, _u32(_TIMEOUT | _EVALUATED)) + attribute(4, _u32(_ADDRESS_TYPE[family]))
    its += attribute(5, _u32(_wide(family))) + _nest(9, attribute(1, _u32(most)))
    its += attribute(11, struct.pack("!Q", timeout_s * 1000)) + attribute(13, _BIG_ENDIAN)
    return _new_set(_text(name), identity, its)


def delete_set(name: str) -> Message:
    """Nothing may use it any more."""
    body = attribute(1, _TABLE) + attribute(2, _text(name))
    return Message(_DELETE_SET, 0, body, f"end of set {name}")


def add_turns(name: str, identity: int, family: Family, its: Protocol) -> Message:
    """A map of turns, by `turn`, to what is translated to, a `destination` each."""
    kind = _ADDRESS_TYPE[family] << _TYPE_BITS | _PORT_TYPE
    turns = _turns(_MAP, kind, _wide(family) + 4, _typeof_turns(family, its))
    return _new_set(_text(name), identity, turns)


def _typeof_turns(family: Family, its: Protocol) -> bytes:
    """For whoever lists the map, so that the list can be loaded again: libnftables' own note that it is of
    `typeof numgen inc mod 65535 : ip daddr . tcp dport` (its struct nftnl_udata, expr_udata_ops)."""
    numgen, concatenation, payload = 23, 13, 7
    key = _note_number(0, numgen) + _note(1, b"".join(map(_note_number, range(3), (0, 0xFFFF, 0))))
    address = _note_number(0, _NETWORK_HEADER[family]) + _note_number(1, _DESTINATION_FIELD[family])
    its_port = _note_number(0, _TRANSPORT_HEADER[its]) + _note_number(1, 2)
    parts = [
        _note(0, _note_number(0, payload) + _note(1, address)),
        _note(1, _note_number(0, payload) + _note(1, its_port)),
    ]
    data = _note_number(0, concatenation) + _note(1, b"".join(parts))
    return _HOST_ENDIAN + _note_number(1, 0) + _note(3, key) + _note(4, data) + _note_number(2, 0)


def _note(kind: int, its: bytes) -> bytes:
    return bytes((kind, len(its))) + its


def _note_number(kind: int, number: int) -> bytes:
    return _note(kind, struct.pack("=I", number))


def add_chain_turns(identity: int, chains: Sequence[str]) -> Iterator[Message]:
    """A map of turns to chains, without a name; it goes with the rule that uses it. `identity` is its name in
    this transaction."""
    its = _turns(_ANONYMOUS | _CONSTANT | _MAP, _VERDICTS, 0) + _nest(9, attribute(1, _u32(len(chains))))
    yield _new_set(_ANY_NAME, identity, its)
    for some in _chunks(element(turn(number), goto(chain)) for number, chain in enumerate(chains)):
        body = attribute(1, _TABLE) + attribute(2, _ANY_NAME) + attribute(4, _u32(identity))
        yield Message(_NEW_ELEMENT, _CREATE, body + _nest(3, some), "turns")


def _turns(flags: int, kind: int, size: int, note: bytes = _HOST_ENDIAN) -> bytes:
    its = attribute(3, _u32(flags)) + attribute(4, _u32(_INTEGER_TYPE)) + attribute(5, _u32(4))
    return its + attribute(6, _u32(kind)) + attribute(7, _u32(size)) + attribute(13, note)


def _new_set(name: bytes, identity: int, its: bytes) -> Message:
    body = attribute(1, _TABLE) + attribute(2, name) + attribute(10, _u32(identity)) + its
    return Message(_NEW_SET, _CREATE, body, f"set {name[:-1].decode()}")


# ---- rules ----


def to_turn(family: Family, its: Protocol, turns: int, name: str) -> list[bytes]:
    """`meta l4proto P dnat ip to numgen inc mod TURNS map @NAME`, with a map of `add_turns`."""
    lead = _expression("lookup", {2: _R1, 3: _R1}, {1: _text(name)})
    nat = _expression("nat", {1: 1, 2: _NFPROTO[family], 3: _R1, 5: _R2 if family == 6 else _WORD_2})
    return [*_is_protocol(its), _numgen(turns), lead, nat]


def to_endpoint(family: Family, its: Protocol, ip: IPAddress, its_port: int) -> list[bytes]:
    """`meta l4proto P dnat ip to ADDRESS:PORT`."""
    load = [_immediate(_R1, value(ip.packed)), _immediate(_R2, value(its_port.to_bytes(2, "big")))]
    proto_specified = 2
    nat = _expression("nat", {1: 1, 2: _NFPROTO[family], 3: _R1, 5: _R2, 7: proto_specified})
    return [*_is_protocol(its), *load, nat]


def remember_client(family: Family, name: str) -> list[bytes]:
    """`update @NAME { ip saddr }` (enum nft_dynset_attributes)."""
    update = _expression("dynset", {3: 1, 4: _R1}, {1: _text(name)})
    return [*_is_family(family), _source(family), update]


def known_client(family: Family, name: str, chain: str) -> list[bytes]:
    """`ip saddr @NAME goto CHAIN`."""
    source = _source(family)
    known = _expression("lookup", {2: _R1}, {1: _text(name)})
    return [*_is_family(family), source, known, _immediate(0, goto(chain))]


def to_chain_turn(turns: int, identity: int) -> list[bytes]:
    """`numgen inc mod TURNS vmap { ... }`, with the map of `add_chain_turns`."""
    return [_numgen(turns), _expression("lookup", {2: _R1, 3: 0, 4: identity}, {1: _ANY_NAME})]


def _is_family(family: Family) -> Iterator[bytes]:
    nfproto = 15
    return _is(nfproto, _NFPROTO[family])


def _is_protocol(its: Protocol) -> Iterator[bytes]:
    l4proto = 16
    return _is(l4proto, _NUMBER[its])


def _is(key: int, byte: int) -> Iterator[bytes]:
    """`meta KEY BYTE` (enum nft_meta_attributes, enum nft_cmp_attributes)."""
    yield _expression("meta", {1: _R1, 2: key})
    yield _expression("cmp", {1: _R1, 2: 0}, {NESTED | 3: value(bytes((byte,)))})


def _source(family: Family) -> bytes:
    """`ip saddr` (enum nft_payload_attributes)."""
    network_header = 1
    return _expression("payload", {1: _R1, 2: network_header, 3: _SOURCE[family], 4: _wide(family)})


def _numgen(turns: int) -> bytes:
    """Counts by itself, in the machine's byte order (enum nft_ng_attributes)."""
    return _expression("numgen", {1: _R1, 2: turns, 3: 0, 4: 0})


def _immediate(register: int, data: bytes) -> bytes:
    """A constant; into register 0 a verdict (enum nft_immediate_attributes)."""
    return _expression("immediate", {1: register}, {NESTED | 2: data})


def _expression(name: str, numbers: dict[int, int], others: dict[int, bytes] | None = None) -> bytes:
    """A part of a rule (enum nft_expr_attributes)."""
    words = b"".join(attribute(kind, _u32(its)) for kind, its in numbers.items())
    words += b"".join(attribute(kind, its) for kind, its in (others or {}).items())
    return _nest(1, attribute(1, _text(name)) + _nest(2, words))


# ---- attributes ----


def _chunks(elements: Iterable[bytes]) -> Iterator[bytes]:
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


def _nest(kind: int, its: bytes) -> bytes:
    return attribute(NESTED | kind, its)


def _u32(its: int) -> bytes:
    return struct.pack("!I", its)


def _text(its: str) -> bytes:
    return its.encode() + b"\0"


def _wide(family: Family) -> int:
    return 4 if family == 4 else 16
