"""Data types of nf_tables: what the values in packets, sets and maps are.

Owns each type's number and size, and how its values are written, for the kernel and for people. A value is
kept as the kernel has it. Refuses to know where values come from (`nft_expressions.py`).

The kernel only keeps the numbers, for `nft` to read: they are libnftables' (its include/datatype.h). Each
part of a concatenation is padded to four bytes, as registers are. Source: nft(8), DATA TYPES.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal

Value = int | str | IPv4Address | IPv6Address
Order = Literal["little", "big"]
_TYPE_BITS = 6
_WORD = 4
"""A register is counted in words of so many bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class DataType:
    """One of nft(8)'s."""

    name: str
    size: int
    """In bytes."""
    pack: Callable[[Value], bytes]
    """What the kernel has for a value. Raises ValueError or KeyError for one that is none of this type."""
    show: Callable[[bytes], str]
    """The other way round, for people."""
    number: int = 0
    """None for types that no set of ours has."""
    big_endian: bool = True
    is_bitmask: bool = False
    """A value stands for all that have one of its bits."""


Key = tuple[DataType, ...]
"""What elements of a set have: one value, or several in a row."""


def type_number(key: Key) -> int:
    """As a set says it."""
    number = 0
    for its in key:
        number = number << _TYPE_BITS | its.number
    return number


def type_name(key: Key) -> str:
    """As nft(8) writes it."""
    return " . ".join(its.name for its in key)


@cache
def key_size(key: Key) -> int:
    """In bytes. One value alone is not padded."""
    return key[0].size if len(key) == 1 else sum(padded(its.size) for its in key)


def padded(size: int) -> int:
    """Up to whole registers."""
    return (size + _WORD - 1) // _WORD * _WORD


def registers(sizes: Iterable[int]) -> Iterator[int]:
    """Where values of these sizes go, in a row from the first register on. The first word of each register of
    16 bytes has the number that it had when there were no others (enum nft_registers)."""
    first, first_word, words_each = 1, 8, 4
    word = 0
    for size in sizes:
        yield first + word // words_each if word % words_each == 0 else first_word + word
        word += padded(size) // _WORD


def show_key(key: Key, first: bytes, last: bytes = b"") -> str:
    """A value, or with `last` all values from one to the other."""
    last = last or first
    parts, at = [], 0
    for its in key:
        parts.append(_show_range(its, first[at : at + its.size], last[at : at + its.size]))
        at += padded(its.size)
    return " . ".join(parts)


def _show_range(its: DataType, first: bytes, last: bytes) -> str:
    if first == last:
        return its.show(first)
    low, high = int.from_bytes(first, "big"), int.from_bytes(last, "big")
    differing = low ^ high
    if differing & (differing + 1) == 0 and low & differing == 0 and its in (IPV4_ADDR, IPV6_ADDR):
        return f"{its.show(first)}/{its.size * 8 - differing.bit_length()}"
    return f"{its.show(first)}-{its.show(last)}"


# ---- the types ----


def _show_address(data: bytes) -> str:
    return str(ip_address(data))


def _numbers(
    name: str, size: int, number: int = 0, form: str = "d", order: Order = sys.byteorder
) -> DataType:
    def pack(value: Value) -> bytes:
        return int(value).to_bytes(size, order)

    def show(data: bytes) -> str:
        return f"{int.from_bytes(data, order):{form}}"

    return DataType(name, size, pack, show, number, big_endian=order == "big")


def _symbols(
    name: str, size: int, symbols: Mapping[str, int], number: int = 0, is_bitmask: bool = False
) -> DataType:
    """Numbers with names, in the machine's byte order."""
    names = {its: symbol for symbol, its in symbols.items()}

    def pack(value: Value) -> bytes:
        if isinstance(value, str):
            return sum(symbols[one] for one in value.split(" | ")).to_bytes(size, sys.byteorder)
        return int(value).to_bytes(size, sys.byteorder)

    def show(data: bytes) -> str:
        its = int.from_bytes(data, sys.byteorder)
        if its in names or not is_bitmask:
            return names.get(its, str(its))
        some = [symbol for symbol, bit in symbols.items() if its & bit]
        return f"({' | '.join(some)})" if some else str(its)

    return DataType(name, size, pack, show, number, size == 1, is_bitmask)


_NAME_SIZE = 16


def _show_name(data: bytes) -> str:
    return f'"{data.rstrip(bytes(1)).decode()}"'


IPV4_ADDR = DataType("ipv4_addr", 4, lambda its: IPv4Address(its).packed, _show_address, 7)
IPV6_ADDR = DataType("ipv6_addr", 16, lambda its: IPv6Address(its).packed, _show_address, 8)
ETHER_ADDR = DataType(
    "ether_addr", 6, lambda its: bytes.fromhex(str(its).replace(":", "")), lambda data: data.hex(":"), 9
)
INET_PROTO = _symbols("inet_proto", 1, {"tcp": 6, "udp": 17, "sctp": 132}, 12)
INET_SERVICE = _numbers("inet_service", 2, 13, order="big")
MARK = _numbers("mark", 4, 19, "#x")
INTEGER = _numbers("integer", 4, 4)
INDEX = _numbers("iface_index", 4)
NAME = DataType("ifname", _NAME_SIZE, lambda its: str(its).encode().ljust(_NAME_SIZE, b"\0"), _show_name)
NFPROTO = _symbols("nf_proto", 1, {"ipv4": 2, "ipv6": 10})
ETHER_TYPE = _numbers("ether_type", 2, form="#06x", order="big")
TCP_FLAGS = _symbols("tcp_flag", 1, {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16}, is_bitmask=True)
CT_STATE = _symbols("ct_state", 4, {"established": 2, "related": 4, "new": 8}, is_bitmask=True)
CT_STATUS = _symbols("ct_status", 4, {"snat": 16, "dnat": 32}, is_bitmask=True)
CT_DIRECTION = _symbols("ct_dir", 1, {"original": 0, "reply": 1})
FIB_TYPE = _symbols("fib_addrtype", 4, {"unicast": 1, "local": 2, "broadcast": 3})
PACKET_TYPE = _symbols("pkt_type", 1, {"host": 0, "broadcast": 1, "multicast": 2, "other": 3})
BOOLEAN = _numbers("boolean", 1)

ADDRESS: Mapping[int, DataType] = {4: IPV4_ADDR, 6: IPV6_ADDR}


def turn(number: int) -> bytes:
    """What `numgen` counts to, as a key."""
    return INTEGER.pack(number)
