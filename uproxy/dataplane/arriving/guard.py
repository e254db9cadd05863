"""Who gets an answer from a listener, decided in the kernel before it answers at all.

A filter on a listening socket (SO_ATTACH_FILTER, socket(7)) is asked about every packet for it, a SYN
too. So clients that are to get no answer get none, without netfilter and without root. Where the
kernel redirects, rules do the same (`steering`).

Owns the programs, in the classic BPF of linux/filter.h.
"""

import ctypes
import socket
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from uproxy.model.names import Family, IPNetwork

_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_LOAD_WORD, _AND, _JUMP, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x54, 0x05, 0x15, 0x06
_NETWORK_HEADER = 0xFFF00000  # SKF_NET_OFF
_INTERFACE = 0xFFFFF008  # SKF_AD_OFF + SKF_AD_IFINDEX
_LOOPBACK = 1
"""The index of `lo`, in every network namespace. What the node sends to itself comes from there."""
_SOURCE_AT = {4: (12,), 6: (8, 12, 16, 20)}
_ALL, _NOTHING = 0xFFFFFFFF, 0
_INSTRUCTIONS_MAX = 4096

_Instruction = tuple[int, int, int, int]


class Guard(NamedTuple):
    """Which clients of a listener get an answer. The default lets everybody in."""

    nobody: bool = False
    inside_only: bool = False
    """Clients on this node and in its Pods."""
    allowed: tuple[IPNetwork, ...] = ()
    """Clients in one of these; empty lets everybody in."""


def set_guard(listener: socket.socket, family: Family, guard: Guard, inside: Sequence[IPNetwork]) -> None:
    """Have the kernel keep out whom `guard` does not let in; replaces an earlier guard at once.

    Raises OSError, for more networks than a filter can hold above all.
    """
    if guard == Guard():
        try:
            listener.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        except FileNotFoundError:  # there was none
            return
        return
    code = program(family, guard, inside)
    instructions = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in code))
    listener.setsockopt(
        socket.SOL_SOCKET,
        _SO_ATTACH_FILTER,
        struct.pack("HP", len(code), ctypes.addressof(instructions)),
    )


def program(family: Family, guard: Guard, inside: Sequence[IPNetwork]) -> list[_Instruction]:
    """The filter: what it returns is how much of the packet to keep. Raises OSError when it is too long."""
    if guard.nobody:
        return [_return(_NOTHING)]
    code: list[_Instruction] = []
    if guard.allowed:
        code += _one_of(family, guard.allowed)
    if guard.inside_only:
        code += [(_LOAD_WORD, 0, 0, _INTERFACE), (_JUMP_IF_EQUAL, 0, 1, _LOOPBACK), _return(_ALL)]
        code += _one_of(family, inside)
    code.append(_return(_ALL))
    if len(code) > _INSTRUCTIONS_MAX:
        raise OSError(f"{len(code)} instructions are more than a socket filter may have")
    return code


def _one_of(family: Family, networks: Iterable[IPNetwork]) -> list[_Instruction]:
    """Go on after the last instruction when the source is in a network, else keep nothing."""
    tests = [_test(family, network) for network in networks if network.version == family]
    code: list[_Instruction] = [_return(_NOTHING)]
    for test in reversed(tests):
        # Each test falls through to this jump when the source is in its network, and else passes it over.
        code = [*test, (_JUMP, 0, 0, len(code)), *code]
    return code


def _test(family: Family, network: IPNetwork) -> list[_Instruction]:
    """Fall through when the source is in `network`, else pass over the instruction that follows."""
    size = 4 * len(_SOURCE_AT[family])
    words = struct.unpack(f"!{size // 4}I", network.network_address.packed)
    masks = struct.unpack(f"!{size // 4}I", network.netmask.packed)
    used = [(at, word, mask) for at, word, mask in zip(_SOURCE_AT[family], words, masks, strict=True) if mask]
    code: list[_Instruction] = []
    for left, (at, word, mask) in zip(range(len(used), 0, -1), used, strict=True):
        code += [
            (_LOAD_WORD, 0, 0, _NETWORK_HEADER + at),
            (_AND, 0, 0, mask),
            (_JUMP_IF_EQUAL, 0, 3 * (left - 1) + 1, word),
        ]
    return code


def _return(kept: int) -> _Instruction:
    return (_RETURN, 0, 0, kept)
