"""nf_tables in memory: takes messages as the kernel does, refuses what that refuses, and prints what it has.

`tests/netns/kernel/test_nft_fake.py` holds it against the kernel. What it does not know: whether the
statements of a rule may be used in chains of its type, loops (kernels differ), overlaps, and elements' times.
"""

import copy
import errno
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from uproxy.errors import CommandFailed
from uproxy.kernel import nft_messages as nft
from uproxy.kernel.netlink import attributes
from uproxy.kernel.nft_commands import Command, rendered
from uproxy.kernel.nft_messages import Message

_NAME_MAX, _KEY_MAX = 256, 64
_ANONYMOUS, _MAP, _INTERVAL, _CONCATENATION = 1, 8, 4, 0x80
_VERDICTS = 0xFFFFFF00
_LEADING = {-3: "jump", -4: "goto"}
K, V = TypeVar("K"), TypeVar("V")
Attributes = dict[int, bytes]
_Key = tuple[bytes, bool]
"""Of an element, and whether an interval has ended there."""


class Refused(Exception):
    """What the kernel says to one message."""

    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))
        self.number = number


@dataclass
class _Set:
    name: str
    described: Attributes
    elements: dict[_Key, bytes] = field(default_factory=dict)

    @property
    def flags(self) -> int:
        return _number(self.described.get(3, bytes(4)))

    def says_the_same(self, other: "_Set") -> bool:
        kinds = (3, 4, 5, 6, 7, 11)
        return all(self.described.get(kind) == other.described.get(kind) for kind in kinds)


@dataclass
class _Rule:
    expressions: list[tuple[str, Attributes]]
    comment: bytes


@dataclass
class _Chain:
    hook: tuple[str, int, int] | None
    rules: list[_Rule] = field(default_factory=list)


@dataclass
class _Table:
    chains: dict[str, _Chain] = field(default_factory=dict)
    sets: dict[str, _Set] = field(default_factory=dict)

    def leading_to(self) -> list[str]:
        """The chains to which rules and elements lead."""
        found = [chain for its in self.chains.values() for rule in its.rules for chain in _jumps(rule)]
        for its in self.sets.values():
            found += [chain for data in its.elements.values() if (chain := _chain_of(its, data))]
        return found

    def sets_in_use(self) -> set[str]:
        return {
            _text(its[1])
            for chain in self.chains.values()
            for rule in chain.rules
            for name, its in rule.expressions
            if name in ("lookup", "dynset")
        }


class NfTables:
    """One network namespace."""

    def __init__(self) -> None:
        self.tables: dict[tuple[int, str], _Table] = {}
        self.transactions = 0
        self._ids: dict[int, _Set] = {}

    def commit(self, commands: Iterable[Command]) -> None:
        """One transaction. Raises CommandFailed with the kernel's words, and then nothing has changed."""
        before, self._ids = copy.deepcopy(self.tables), {}
        for command, message in list(rendered(commands)):
            try:
                self._take(message)
            except Refused as refused:
                self.tables = before
                raise CommandFailed(f"nf_tables: {command.words}: {os.strerror(refused.number)}") from refused
        self.transactions += 1

    def __str__(self) -> str:
        return "".join(f"{line}\n" for line in self._lines())

    # ---- messages ----

    def _take(self, message: Message) -> None:
        its = dict(attributes(message.body))
        key = message.family, _name(its[1])
        if message.kind == nft.NEW_TABLE:
            self.tables.setdefault(key, _Table())
            return
        table = _found(self.tables, key)
        match message.kind:
            case nft.DELETE_TABLE:
                del self.tables[key]
            case nft.NEW_CHAIN:
                _new_chain(table, its)
            case nft.DELETE_CHAIN:
                _delete_chain(table, _text(its[3]))
            case nft.NEW_RULE:
                self._new_rule(table, its)
            case nft.DELETE_RULE:
                _delete_rules(table, _found(table.chains, _text(its[2])))
            case nft.NEW_SET:
                self._new_set(table, its)
            case nft.DELETE_SET:
                _delete_set(table, _text(its[2]))
            case nft.NEW_ELEMENT:
                _new_elements(
                    table, _used(table, self._ids, {1: its[2], 4: its.get(4, b"")}), its[nft.ELEMENTS]
                )
            case nft.DELETE_ELEMENT:
                _delete_elements(_found(table.sets, _text(its[2])), its[nft.ELEMENTS])
            case other:
                raise AssertionError(f"message {other} is not known")

    def _new_set(self, table: _Table, its: Attributes) -> None:
        new = _Set(_name(its[2]), its)
        size = _number(its[5])
        if not 0 < size <= _KEY_MAX or 10 not in its:
            raise Refused(errno.EINVAL)
        if new.flags & _MAP and 6 not in its:
            raise Refused(errno.EINVAL)
        if new.flags & _ANONYMOUS:
            number = 0
            while new.name % number in table.sets:
                number += 1
            new.name %= number
        old = table.sets.get(new.name)
        if old is not None and not old.says_the_same(new):
            raise Refused(errno.EEXIST)
        self._ids[_number(its[10])] = table.sets.setdefault(new.name, new)

    def _new_rule(self, table: _Table, its: Attributes) -> None:
        chain = _found(table.chains, _text(its[2]))
        rule = _Rule([_expression(one) for _, one in attributes(its[4])], its.get(7, b""))
        for name, numbers in rule.expressions:
            if name in ("lookup", "dynset"):
                used = _used(table, self._ids, numbers)
                if name == "lookup" and (3 in numbers) > bool(used.flags & _MAP):
                    raise Refused(errno.EINVAL)
                numbers[1] = nft.text(used.name)
        for to in _jumps(rule):
            if _found(table.chains, to).hook is not None:
                raise Refused(errno.EOPNOTSUPP)
        chain.rules.append(rule)

    # ---- text ----

    def _lines(self) -> Iterator[str]:
        for (family, name), table in self.tables.items():
            yield f"table {family} {name}"
            for its in sorted(table.sets.values(), key=lambda one: one.name):
                described = {
                    kind: data.hex()
                    for kind, data in sorted(its.described.items())
                    if kind > 2 and kind != 10
                }
                yield f"  set {its.name} {described}"
                yield from (
                    f"    {key.hex()} {end:d} {data.hex()}"
                    for (key, end), data in sorted(its.elements.items())
                )
            for chain_name, chain in table.chains.items():
                yield f"  chain {chain_name} {chain.hook or ''}".rstrip()
                for rule in chain.rules:
                    parts = (f"{one}({_shown(numbers)})" for one, numbers in rule.expressions)
                    yield f"    {' '.join(parts)} {rule.comment.hex()}".rstrip()


def _shown(numbers: Attributes) -> str:
    return ", ".join(f"{kind}={data.hex()}" for kind, data in sorted(numbers.items()))


def _used(table: _Table, ids: dict[int, _Set], numbers: Attributes) -> _Set:
    """By its name, or, where it has none, by its number in this transaction."""
    called = _text(numbers[1])
    if called in table.sets:
        return table.sets[called]
    return _found(ids, _number(numbers.get(4, b"")))


def _new_chain(table: _Table, its: Attributes) -> None:
    hook = None
    if 4 in its:
        at = dict(attributes(its[4]))
        hook = _text(its[7]), _number(at[1]), struct.unpack("!i", at[2])[0]
    name = _name(its[3])
    if name in table.chains and hook is not None and table.chains[name].hook != hook:
        raise Refused(errno.EEXIST if table.chains[name].hook else errno.EOPNOTSUPP)
    table.chains.setdefault(name, _Chain(hook))


def _delete_chain(table: _Table, name: str) -> None:
    _delete_rules(table, _found(table.chains, name))
    if name in table.leading_to():
        raise Refused(errno.EBUSY)
    del table.chains[name]


def _delete_rules(table: _Table, chain: _Chain) -> None:
    chain.rules.clear()
    used = table.sets_in_use()
    for name in [its.name for its in table.sets.values() if its.flags & _ANONYMOUS and its.name not in used]:
        del table.sets[name]


def _delete_set(table: _Table, name: str) -> None:
    its = _found(table.sets, name)
    if name in table.sets_in_use():
        raise Refused(errno.EBUSY)
    del table.sets[its.name]


def _new_elements(table: _Table, its: _Set, elements: bytes) -> None:
    for key, data in _elements(its, elements):
        is_end = key[1]
        if bool(data) != (bool(its.flags & _MAP) and not is_end):
            raise Refused(errno.EINVAL)
        if (to := _chain_of(its, data)) and _found(table.chains, to).hook is not None:
            raise Refused(errno.EOPNOTSUPP)
        if its.elements.setdefault(key, data) != data:
            raise Refused(errno.EEXIST)


def _delete_elements(its: _Set, elements: bytes) -> None:
    for key, _ in _elements(its, elements):
        if key not in its.elements:
            raise Refused(errno.ENOENT)
        del its.elements[key]


def _elements(its: _Set, elements: bytes) -> Iterator[tuple[_Key, bytes]]:
    size = _number(its.described[5])
    for _, one in attributes(elements):
        parts = dict(attributes(one))
        key = dict(attributes(parts[1]))[1]
        last = dict(attributes(parts[10]))[1] if 10 in parts else b""
        if len(key) != size or len(last) not in (0, size):
            raise Refused(errno.EINVAL)
        is_end = bool(3 in parts and _number(parts[3]) & 1)
        if (is_end or last) and not its.flags & _INTERVAL:
            raise Refused(errno.EINVAL)
        yield (key + last, is_end), parts.get(2, b"")


def _jumps(rule: _Rule) -> Iterator[str]:
    for name, its in rule.expressions:
        if name == "immediate" and _number(its[1]) == 0 and (to := _verdict_chain(its[2])):
            yield to


def _chain_of(its: _Set, data: bytes) -> str:
    leads = _number(its.described.get(6, bytes(4))) == _VERDICTS
    return _verdict_chain(data) if leads and data else ""


def _verdict_chain(data: bytes) -> str:
    its = dict(attributes(dict(attributes(data))[2]))
    (code,) = struct.unpack("!i", its[1])
    return _text(its[2]) if code in _LEADING else ""


def _expression(data: bytes) -> tuple[str, Attributes]:
    its = dict(attributes(data))
    return _text(its[1]), dict(attributes(its.get(2, b"")))


def _found(known: dict[K, V], key: K) -> V:
    if key not in known:
        raise Refused(errno.ENOENT)
    return known[key]


def _name(data: bytes) -> str:
    if len(data) > _NAME_MAX:
        raise Refused(errno.ERANGE)
    return _text(data)


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode()


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")
