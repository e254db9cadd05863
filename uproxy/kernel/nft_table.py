"""Sets, chains and rules of nf_tables as values.

Owns how each is written for people, and the attributes by which the kernel is told of a set. Refuses to know
the messages that make them (`nft_commands.py`), and what they are good for.

User data of sets says no more than every nft since 0.9.3 can read: the order of bytes, and that networks were
merged. A type by its name, as nft 1.1.2 and later write it for sets of one value, makes those before crash.
Source: nft(8).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from uproxy.kernel import nft_messages as nft
from uproxy.kernel.netlink import attribute
from uproxy.kernel.nft_messages import Element, Verdict, nest, u32
from uproxy.kernel.nft_statements import Statement
from uproxy.kernel.nft_types import INTEGER, Key, key_size, show_key, type_name, type_number

_MAP, _INTERVAL, _TIMEOUT, _EVALUATED, _CONCATENATION = 8, 4, 0x10, 0x20, 0x80
_VERDICTS = 0xFFFFFF00


class Typeof(NamedTuple):
    """Types that only an expression has."""

    text: str
    note: bytes
    """libnftables' own for it."""


@dataclass(frozen=True)
class Set:
    """A set, or with what elements lead to a map."""

    name: str
    key: Key
    data: Key = ()
    verdicts: bool = False
    """It leads to verdicts."""
    interval: bool = False
    auto_merge: bool = False
    """Its elements are networks of which some may be in others; see `merged`."""
    counter: bool = False
    """Each element counts."""
    timeout_s: int = 0
    """Rules fill it, and it forgets."""
    most: int = 0
    typeof: Typeof | None = None

    @property
    def is_map(self) -> bool:
        """Whether elements lead to anything."""
        return self.verdicts or bool(self.data)

    @property
    def is_concatenation(self) -> bool:
        """Whether keys are several values in a row."""
        return len(self.key) > 1

    def show(self, element: Element) -> str:
        """As nft(8) writes it."""
        shown = show_key(self.key, element.key, element.last)
        if element.left_ms:
            shown += f" expires {element.left_ms}ms"
        if not element.leads_to:
            return shown
        its = element.leads_to
        return f"{shown} : {its if isinstance(its, Verdict) else show_key(self.data, its)}"

    @cached_property
    def text(self) -> str:
        """What is in it is not."""
        data = "verdict" if self.verdicts else type_name(self.data)
        plain = f"type {type_name(self.key)}{f' : {data}' if data else ''}"
        parts = {
            self.typeof.text if self.typeof else plain: True,
            "flags interval": self.interval,
            "auto-merge": self.auto_merge,
            "flags dynamic, timeout": self.timeout_s,
            f"timeout {self.timeout_s}s": self.timeout_s,
            f"size {self.most}": self.most,
            "counter": self.counter,
        }
        return " ".join(f"{part};" for part, is_so in parts.items() if is_so)

    @property
    def word(self) -> str:
        """What nft(8) calls it."""
        return "map" if self.is_map else "set"

    @cached_property
    def body(self) -> bytes:
        """Attributes, but for its name and number (enum nft_set_attributes)."""
        numbers = {3: self._flags, 4: type_number(self.key), 5: key_size(self.key)}
        if self.verdicts:
            numbers |= {6: _VERDICTS, 7: 0}
        elif self.data:
            # nft 0.9.3 aborts at data of several values. Later ones read the note instead of the number.
            kind = INTEGER.number if self.typeof else type_number(self.data)
            numbers |= {6: kind, 7: key_size(self.data)}
        words = b"".join(attribute(kind, u32(its)) for kind, its in numbers.items())
        if self.timeout_s:
            words += attribute(11, (self.timeout_s * 1000).to_bytes(8, "big"))
        if self.counter:
            words += nest(17, attribute(1, nft.text("counter")))
        return words + self._description() + attribute(13, self._note())

    @property
    def _flags(self) -> int:
        flags = _MAP if self.is_map else 0
        if self.interval:
            flags |= _INTERVAL | (_CONCATENATION if self.is_concatenation else 0)
        return flags | (_TIMEOUT | _EVALUATED if self.timeout_s else 0)

    def _description(self) -> bytes:
        """enum nft_set_desc_attributes."""
        its = attribute(1, u32(self.most)) if self.most else b""
        if self.interval and self.is_concatenation:
            its += nest(2, b"".join(nest(1, attribute(1, u32(part.size))) for part in self.key))
        return nest(9, its) if its else b""

    def _note(self) -> bytes:
        if self.typeof:
            return self.typeof.note
        merges = nft.note_number(2, 1) if self.auto_merge else b""
        return nft.key_order(not self.is_concatenation and self.key[0].big_endian) + merges


class Hook(NamedTuple):
    """Where packets come to a chain."""

    type: str
    hook: str
    priority: int

    def __str__(self) -> str:
        return f"type {self.type} hook {self.hook} priority {self.priority}; policy accept;"


@dataclass(frozen=True, slots=True)
class Rule:
    """Statements from left to right, and a comment."""

    statements: tuple[Statement, ...]
    comment: str = ""

    def __str__(self) -> str:
        words = [*map(str, self.statements), f'comment "{self.comment}"' if self.comment else ""]
        return " ".join(filter(None, words))


def rule(*statements: Statement, comment: str = "") -> Rule:
    """A rule of these."""
    return Rule(statements, comment)


class Chain(NamedTuple):
    """Rules, one after the other."""

    name: str
    rules: tuple[Rule, ...]
    hook: Hook | None = None
