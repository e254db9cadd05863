"""What a transaction of nf_tables says: commands, each as a line that nft(8) reads and as messages.

Owns both ways of writing what is added and deleted, and a whole table. Refuses to send them (`nft.py`), and
to know what they are good for. Source: nft(8).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import collapse_addresses
from itertools import chain as chained
from itertools import count, pairwise
from typing import NamedTuple, Protocol

from uproxy.errors import CommandFailed
from uproxy.kernel import nft_messages as nft
from uproxy.kernel.netlink import attribute
from uproxy.kernel.nft_expressions import Known
from uproxy.kernel.nft_messages import Element, Message, Table, nest, u32
from uproxy.kernel.nft_statements import Rendering
from uproxy.kernel.nft_table import Chain, Hook, Rule, Set
from uproxy.model.names import IPNetwork

_HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}
_ACCEPT = 1
TakeId = Callable[[], int]
"""Gives a number for a set that no other has in a transaction."""


class Command(Protocol):
    """One of a transaction."""

    @property
    def text(self) -> str:
        """A line for nft(8)."""
        ...

    @property
    def words(self) -> str:
        """What it is about, should the kernel refuse it."""
        ...

    def messages(self, take_id: "TakeId") -> Iterator[Message]:
        """For the kernel."""
        ...


def rendered(commands: Iterable[Command]) -> Iterator[tuple[Command, Message]]:
    """All messages of a transaction."""
    ids = count(1)
    for command in commands:
        for message in command.messages(ids.__next__):
            yield command, message


def text_of(commands: Iterable[Command]) -> str:
    """All of it for nft(8)."""
    return "".join(command.text for command in commands)


class AddTable(NamedTuple):
    """`add table`: one that is there stays."""

    table: Table

    @property
    def text(self) -> str:
        """For nft(8)."""
        return f"add table {self.table}\n"

    @property
    def words(self) -> str:
        """What it is about."""
        return f"table {self.table}"

    def messages(self, take_id: TakeId) -> Iterator[Message]:
        """For the kernel (enum nft_table_attributes)."""
        yield _message(self.table, nft.NEW_TABLE, nft.CREATE, b"")


class DeleteTable(NamedTuple):
    """`delete table`, with all that is in it."""

    table: Table

    @property
    def text(self) -> str:
        """For nft(8)."""
        return f"delete table {self.table}\n"

    @property
    def words(self) -> str:
        """What it is about."""
        return f"end of table {self.table}"

    def messages(self, take_id: TakeId) -> Iterator[Message]:
        """For the kernel."""
        yield _message(self.table, nft.DELETE_TABLE, 0, b"")


class AddChain(NamedTuple):
    """`add chain`."""

    table: Table
    name: str
    hook: Hook | None = None

    @property
    def text(self) -> str:
        """For nft(8)."""
        hook = f" {{ {self.hook} }}" if self.hook else ""
        return f"add chain {self.table} {self.name}{hook}\n"

    @property
    def words(self) -> str:
        """What it is about."""
        return f"chain {self.name}" + (f" ({self.hook})" if self.hook else "")

    def messages(self, take_id: TakeId) -> Iterator[Message]:
        """For the kernel (enum nft_chain_attributes, enum nft_hook_attributes)."""
        its = attribute(3, nft.text(self.name))
        if self.hook:
            priority = self.hook.priority & 0xFFFFFFFF
            hook = attribute(1, u32(_HOOKS[self.hook.hook])) + attribute(2, u32(priority))
            its += nest(4, hook) + attribute(5, u32(_ACCEPT)) + attribute(7, nft.text(self.hook.type))
        yield _message(self.table, nft.NEW_CHAIN, nft.CREATE, its)


class DeleteChain(NamedTuple):
    """`delete chain`, with its rules: nothing may lead there."""

    table: Table
    name: str

    @property
    def text(self) -> str:
        """For nft(8)."""
        return f"delete chain {self.table} {self.name}\n"

    @property
    def words(self) -> str:
        """What it is about."""
        return f"end of chain {self.name}"

    def messages(self, take_id: TakeId) -> Iterator[Message]:
        """For the kernel."""
        yield _message(self.table, nft.DELETE_CHAIN, 0, attribute(3, nft.text(self.name)))


class FlushChain(NamedTuple):
    """`flush chain`: without its rules."""

    table: Table
    name: str

    @property
    def text(self) -> str:
        """For nft(8)."""
        return f"flush chain {self.table} {self.name}\n"

    @property
    def words(self) -> str:
        """What it is about."""
        return f"rules of chain {self.name}"

    def messages(self, take_id: TakeId) -> Iterator[Message]:
        """For the kernel."""
        yield _message(self.table, nft.DELETE_RULE, 0, attribute(2, nft.text(self.name)))


class AddRule(NamedTuple):
    """`add rule`, at the end of a chain."""

    table: Table
    chain: str
    rule: Rule

    @property
    def text(self) -> str:
        """For nft(8)."""
        return f"add rule {self.table} {self.chain} {self.rule}\n"

    @property
    def words(self) -> str:
        """What it is about."""
        return f"rule of chain {self.chain}: {self.rule}"

    def messages(self, take_id: TakeId) -> Iterator[Message]:
        """For the kernel (enum nft_rule_attributes)."""
        rendering = Rendering(self.table, take_id, Known(self.table.family))
        parts = [part for its in self.rule.statements for part in its.instructions(rendering)]
        its = attribute(2, nft.text(self.chain)) + nest(4, b"".join(parts))
        if self.rule.comment:
            its += attribute(7, nft.note(0, nft.text(self.rule.comment)))
        yield from rendering.before
        yield _message(self.table, nft.NEW_RULE, nft.CREATE | nft.APPEND, its)


class AddSet(NamedTuple):
    """`add set`, or `add map`."""

    table: Table
    set: Set

    @property
    def text(self) -> str:
        """For nft(8)."""
        return f"add {self.set.word} {self.table} {self.set.name} {{ {self.set.text} }}\n"

    @property
    def words(self) -> str:
        """What it is about."""
        return f"{self.set.word} {self.set.name} ({self.set.text})"

    def messages(self, take_id: TakeId) -> Iterator[Message]:
        """For the kernel (enum nft_set_attributes)."""
        its = attribute(2, nft.text(self.set.name)) + attribute(10, u32(take_id())) + self.set.body
        yield _message(self.table, nft.NEW_SET, nft.CREATE, its)


class DeleteSet(NamedTuple):
    """`delete set`, or map: nothing may use it."""

    table: Table
    set: Set

    @property
    def text(self) -> str:
        """For nft(8)."""
        return f"delete {self.set.word} {self.table} {self.set.name}\n"

    @property
    def words(self) -> str:
        """What it is about."""
        return f"end of {self.set.word} {self.set.name}"

    def messages(self, take_id: TakeId) -> Iterator[Message]:
        """For the kernel."""
        yield _message(self.table, nft.DELETE_SET, 0, attribute(2, nft.text(self.set.name)))


class AddElements(NamedTuple):
    """`add element`. To a set of intervals of single values all at once, and when it is empty. A set that
    counts adds the counters."""

    table: Table
    set: Set
    elements: Sequence[Element]

    @property
    def text(self) -> str:
        """For nft(8)."""
        return _elements_text("add", self.table, self.set, self.elements)

    @property
    def words(self) -> str:
        """What it is about."""
        return f"elements of {self.set.name}"

    def messages(self, take_id: TakeId) -> Iterator[Message]:
        """For the kernel. Raises CommandFailed for intervals that overlap."""
        if self.set.interval and not self.set.is_concatenation:
            elements = _intervals(self.set, self.elements)
        else:
            elements = map(nft.encode, self.elements)
        yield from _elements(self.table, self.set, elements, nft.NEW_ELEMENT, nft.CREATE)


class DeleteElements(NamedTuple):
    """`delete element`: of maps, too, keys say which."""

    table: Table
    set: Set
    elements: Sequence[Element]

    @property
    def text(self) -> str:
        """For nft(8)."""
        return _elements_text("delete", self.table, self.set, self.elements)

    @property
    def words(self) -> str:
        """What it is about."""
        return f"deleted elements of {self.set.name}"

    def messages(self, take_id: TakeId) -> Iterator[Message]:
        """For the kernel."""
        elements = map(nft.encode, self.elements)
        yield from _elements(self.table, self.set, elements, nft.DELETE_ELEMENT, 0)


def _elements_text(verb: str, table: Table, its: Set, elements: Iterable[Element]) -> str:
    return f"{verb} element {table} {its.name} {{ {', '.join(map(its.show, elements))} }}\n"


def _elements(table: Table, its: Set, elements: Iterable[bytes], kind: int, flags: int) -> Iterator[Message]:
    """By as many messages as they need."""
    name = attribute(2, nft.text(its.name))
    for some in nft.chunks(elements):
        yield _message(table, kind, flags, name + nest(nft.ELEMENTS, some))


def _intervals(its: Set, elements: Iterable[Element]) -> Iterator[bytes]:
    """As nft does: where each begins, and where it has ended."""
    ordered = sorted(elements)
    for one, after in pairwise(ordered):
        if after.key <= (one.last or one.key):
            raise CommandFailed(f"{its.name}: {its.show(one)} and {its.show(after)} overlap")
    if ordered and any(ordered[0].key):
        yield nft.interval_end(bytes(len(ordered[0].key)))
    for one in ordered:
        yield nft.encode(one._replace(last=b""))
        end = int.from_bytes(one.last or one.key, "big") + 1
        if end < 1 << len(one.key) * 8:
            yield nft.interval_end(end.to_bytes(len(one.key), "big"))


def _message(table: Table, kind: int, flags: int, its: bytes) -> Message:
    return Message(kind, flags, nft.FAMILIES[table.family], nft.in_table(table) + its)


def networks(some: Iterable[IPNetwork]) -> list[Element]:
    """Elements for a set of intervals."""
    return [Element(its.network_address.packed, its.broadcast_address.packed) for its in some]


def merged(some: Iterable[IPNetwork]) -> list[Element]:
    """The same for a set that merges: neighbours are one interval."""
    found: list[Element] = []
    for one in networks(collapse_addresses(some)):  # type: ignore[type-var]
        if found and int.from_bytes(found[-1].last, "big") + 1 == int.from_bytes(one.key, "big"):
            found[-1] = found[-1]._replace(last=one.last)
        else:
            found.append(one)
    return found


# ---- a whole table ----


@dataclass(frozen=True)
class Definition:
    """A table with all that is in it."""

    table: Table
    sets: Sequence[Set] = ()
    chains: Sequence[Chain] = ()
    elements: dict[str, Sequence[Element]] = field(default_factory=dict)
    """By the names of sets. Those that lead to chains lead to chains of this table."""

    @property
    def text(self) -> str:
        """Lines for nft(8) that put it in the place of any older one."""
        # Deleting a table that is not there is an error; adding one that is there is not.
        begin = f"add table {self.table}\ndelete table {self.table}\n"
        if not self.chains:
            return begin
        parts = chained(map(self._set_text, self.sets), map(_chain_text, self.chains))
        return f"{begin}table {self.table} {{\n{''.join(parts)}}}\n"

    def commands(self) -> Iterator[Command]:
        """The same."""
        yield AddTable(self.table)
        yield DeleteTable(self.table)
        if not self.chains:
            return
        yield AddTable(self.table)
        for chain in self.chains:
            yield AddChain(self.table, chain.name, chain.hook)
        for its in self.sets:
            yield AddSet(self.table, its)
            if elements := self.elements.get(its.name):
                yield AddElements(self.table, its, elements)
        for chain in self.chains:
            for one in chain.rules:
                yield AddRule(self.table, chain.name, one)

    def _set_text(self, its: Set) -> str:
        elements = ", ".join(map(its.show, self.elements.get(its.name, ())))
        filled = f" elements = {{ {elements} }};" if elements else ""
        return f"\t{its.word} {its.name} {{ {its.text}{filled} }}\n"


def _chain_text(chain: Chain) -> str:
    lines = [str(chain.hook)] if chain.hook else []
    lines += map(str, chain.rules)
    return f"\tchain {chain.name} {{\n{''.join(_indented(line) for line in lines)}\t}}\n"


def _indented(line: str) -> str:
    return f"\t\t{line}\n"
