"""What rules of nf_tables do, one statement after the other.

Owns how each is written for people (`str`) and what instructions the kernel gets for it; translation is
`nft_nat.py`. Refuses to know whole rules (`nft_table.py`). Source: nft(8), STATEMENTS; the instructions are
those of nft 1.0.6 (`nft --debug=netlink`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Protocol

from uproxy.kernel import nft_messages as nft
from uproxy.kernel.netlink import attribute
from uproxy.kernel.nft_expressions import (
    EQUAL,
    L4PROTO,
    MARK,
    NOT_EQUAL,
    PKTTYPE,
    Field,
    Known,
    Need,
    bitwise,
    compare,
    load_all,
    show,
)
from uproxy.kernel.nft_messages import Element, Message, Table, Verdict, expression, immediate
from uproxy.kernel.nft_types import INTEGER, Value, turn
from uproxy.kernel.nft_types import MARK as MARK_TYPE

_NFPROTO = {4: 2, 6: 10}
_INET = 1
_PORT_IS_GIVEN = 2
"""NF_NAT_RANGE_PROTO_SPECIFIED."""


@dataclass(slots=True)
class Rendering:
    """A rule on its way to the kernel."""

    table: Table
    take_id: Callable[[], int]
    """A number for a set in this transaction."""
    known: Known
    before: list[Message] = field(default_factory=list)
    """What has to be there before the rule: maps without a name."""


class Statement(Protocol):
    """A part of a rule. `str` is what nft(8) would read."""

    def instructions(self, rendering: Rendering) -> Iterator[bytes]:
        """For the kernel."""
        ...


# ---- does the rule go on? ----


@dataclass(frozen=True, slots=True)
class Match:
    """`ip daddr != ::1`, `meta l4proto tcp`: goes on with packets that have this value."""

    field: Field
    value: Value
    """Of addresses also a network, in words."""
    negated: bool = False

    def __str__(self) -> str:
        shown = self.value if self._is_network else self.field.type.show(self.field.type.pack(self.value))
        return f"{self.field.text} {'!= ' if self.negated else ''}{shown}"

    @property
    def _is_network(self) -> bool:
        return isinstance(self.value, str) and "/" in self.value

    def instructions(self, rendering: Rendering) -> Iterator[bytes]:
        """For the kernel."""
        yield from rendering.known.require(self.field.needs)
        operator = NOT_EQUAL if self.negated else EQUAL
        if self._is_network:
            yield from self._in_network(operator)
            return
        its = self.field.type
        data = its.pack(self.value)
        yield self.field.load(1)
        if its.is_bitmask and not self.negated:
            yield bitwise(data, bytes(its.size))
            yield compare(NOT_EQUAL, bytes(its.size))
            return
        yield compare(operator, data)
        if not self.negated:
            rendering.known.learn(self.field, its.show(data))

    def _in_network(self, operator: int) -> Iterator[bytes]:
        network = ip_network(str(self.value))
        whole, rest = divmod(network.prefixlen, 8)
        if rest == 0:
            yield self.field.load_first(whole)
            yield compare(operator, network.network_address.packed[:whole])
            return
        yield self.field.load(1)
        yield bitwise(network.netmask.packed, bytes(self.field.type.size))
        yield compare(operator, network.network_address.packed)


@dataclass(frozen=True, slots=True)
class Masked:
    """`meta mark & 0xffff == 0x3075`: the same for some bits of it."""

    field: Field
    mask: Value
    value: Value
    negated: bool = False

    def __str__(self) -> str:
        its = self.field.type
        operator = "!=" if self.negated else "=="
        return (
            f"{self.field.text} & {its.show(its.pack(self.mask))} {operator} {its.show(its.pack(self.value))}"
        )

    def instructions(self, rendering: Rendering) -> Iterator[bytes]:
        """For the kernel."""
        its = self.field.type
        yield from rendering.known.require(self.field.needs)
        yield self.field.load(1)
        yield bitwise(its.pack(self.mask), bytes(its.size))
        yield compare(NOT_EQUAL if self.negated else EQUAL, its.pack(self.value))


@dataclass(frozen=True, slots=True)
class InSet:
    """`ip daddr . tcp dport @redirect4`: goes on with packets whose values are in a set."""

    fields: tuple[Field, ...]
    name: str
    negated: bool = False

    def __str__(self) -> str:
        return f"{show(self.fields)} {'!= ' if self.negated else ''}@{self.name}"

    def instructions(self, rendering: Rendering) -> Iterator[bytes]:
        """For the kernel."""
        yield from load_all(self.fields, rendering.known)
        inverted = {5: 1} if self.negated else {}
        yield expression("lookup", {2: 1, **inverted}, {1: nft.text(self.name)})


# ---- where does the packet go? ----


@dataclass(frozen=True, slots=True)
class Decide:
    """`accept`, `goto refuse`."""

    verdict: Verdict

    def __str__(self) -> str:
        return str(self.verdict)

    def instructions(self, rendering: Rendering) -> Iterator[bytes]:
        """For the kernel."""
        yield immediate(0, nft.verdict(self.verdict))


ACCEPT, DROP, RETURN = (Decide(Verdict(its)) for its in ("accept", "drop", "return"))


def jump(chain: str) -> Decide:
    """On to a chain, and back from its end."""
    return Decide(Verdict("jump", chain))


def goto(chain: str) -> Decide:
    """On to a chain, and not back."""
    return Decide(Verdict("goto", chain))


@dataclass(frozen=True, slots=True)
class VerdictMap:
    """`tcp dport vmap @services`: what an element of a map says, if there is one."""

    fields: tuple[Field, ...]
    name: str

    def __str__(self) -> str:
        return f"{show(self.fields)} vmap @{self.name}"

    def instructions(self, rendering: Rendering) -> Iterator[bytes]:
        """For the kernel."""
        yield from load_all(self.fields, rendering.known)
        yield expression("lookup", {2: 1, 3: 0}, {1: nft.text(self.name)})


@dataclass(frozen=True, slots=True)
class VerdictTurns:
    """`numgen inc mod 2 vmap { 0 : goto a, 1 : goto b }`: to chains in turn, by a map without a name, which
    goes with the rule."""

    turns: Field
    """A `numgen`."""
    chains: tuple[str, ...]

    def __str__(self) -> str:
        some = ", ".join(f"{number} : goto {chain}" for number, chain in enumerate(self.chains))
        return f"{self.turns.text} vmap {{ {some} }}"

    def instructions(self, rendering: Rendering) -> Iterator[bytes]:
        """For the kernel."""
        any_name, identity = nft.text("__map%d"), rendering.take_id()  # the kernel counts them
        rendering.before += self._map(rendering.table, any_name, identity)
        yield self.turns.load(1)
        yield expression("lookup", {2: 1, 3: 0, 4: identity}, {1: any_name})

    def _map(self, table: Table, name: bytes, identity: int) -> Iterator[Message]:
        anonymous, constant, is_map, verdicts = 1, 2, 8, 0xFFFFFF00
        numbers = {10: identity, 3: anonymous | constant | is_map, 4: INTEGER.number, 5: INTEGER.size}
        numbers |= {6: verdicts, 7: 0}
        body = nft.in_table(table) + attribute(2, name)
        whole = body + b"".join(attribute(kind, nft.u32(its)) for kind, its in numbers.items())
        whole += attribute(13, nft.key_order(False)) + nft.nest(9, attribute(1, nft.u32(len(self.chains))))
        family = nft.FAMILIES[table.family]
        yield Message(nft.NEW_SET, nft.CREATE, family, whole)
        elements = (
            Element(turn(number), leads_to=Verdict("goto", its)) for number, its in enumerate(self.chains)
        )
        of_set = body + attribute(4, nft.u32(identity))
        for some in nft.chunks(map(nft.encode, elements)):
            yield Message(nft.NEW_ELEMENT, nft.CREATE, family, of_set + nft.nest(nft.ELEMENTS, some))


@dataclass(frozen=True, slots=True)
class Reject:
    """`reject`: port unreachable, or for TCP a reset."""

    with_tcp_reset: bool = False

    def __str__(self) -> str:
        return "reject with tcp reset" if self.with_tcp_reset else "reject"

    def instructions(self, rendering: Rendering) -> Iterator[bytes]:
        """For the kernel (enum nft_reject_attributes)."""
        tcp_reset, any_family, port_unreachable = 1, 2, 1
        if self.with_tcp_reset:
            yield from rendering.known.require([Need("protocol", "tcp")])
            yield expression("reject", {1: tcp_reset}, {2: bytes(1)})
        else:
            yield expression("reject", {1: any_family}, {2: bytes((port_unreachable,))})


@dataclass(frozen=True, slots=True)
class Queue:
    """`queue flags bypass to 5`: to a program that decides; without one, the packet goes on."""

    number: int

    def __str__(self) -> str:
        return f"queue flags bypass to {self.number}"

    def instructions(self, rendering: Rendering) -> Iterator[bytes]:
        """For the kernel (enum nft_queue_attributes)."""
        one, bypass = 1, 1
        numbers = {1: self.number, 2: one, 3: bypass}
        yield expression("queue", {}, {kind: its.to_bytes(2, "big") for kind, its in numbers.items()})


# ---- changes ----


@dataclass(frozen=True, slots=True)
class SetMark:
    """`meta mark set meta mark & 0xffff0000 | 0x3075`: keeps the bits of `mask`, and sets these."""

    mask: int
    bits: int

    def __str__(self) -> str:
        return f"meta mark set meta mark & {self.mask:#x} | {self.bits:#x}"

    def instructions(self, rendering: Rendering) -> Iterator[bytes]:
        """For the kernel."""
        yield MARK.load(1)
        yield bitwise(MARK_TYPE.pack(self.mask & ~self.bits), MARK_TYPE.pack(self.bits))
        yield expression("meta", {2: 3, 3: 1})


@dataclass(frozen=True, slots=True)
class SetPacketType:
    """`meta pkttype set host`."""

    kind: str

    def __str__(self) -> str:
        return f"meta pkttype set {self.kind}"

    def instructions(self, rendering: Rendering) -> Iterator[bytes]:
        """For the kernel."""
        yield immediate(1, nft.value(PKTTYPE.type.pack(self.kind)))
        yield expression("meta", {**dict(PKTTYPE.numbers), 3: 1})


@dataclass(frozen=True, slots=True)
class SetMac:
    """`ether daddr set ip saddr map @macs4`: to what a map has for a value."""

    value: Field
    name: str

    def __str__(self) -> str:
        return f"ether daddr set {self.value.text} map @{self.name}"

    def instructions(self, rendering: Rendering) -> Iterator[bytes]:
        """For the kernel (enum nft_payload_attributes)."""
        link_header, size = 0, 6
        yield from load_all((self.value,), rendering.known)
        yield expression("lookup", {2: 1, 3: 1}, {1: nft.text(self.name)})
        yield expression("payload", {5: 1, 2: link_header, 3: 0, 4: size, 6: 0, 7: 0, 8: 0})


@dataclass(frozen=True, slots=True)
class Remember:
    """`update @clients { ip saddr }`: into a set that forgets, and anew if it is there."""

    value: Field
    name: str

    def __str__(self) -> str:
        return f"update @{self.name} {{ {self.value.text} }}"

    def instructions(self, rendering: Rendering) -> Iterator[bytes]:
        """For the kernel (enum nft_dynset_attributes)."""
        update = 1
        yield from load_all((self.value,), rendering.known)
        yield expression("dynset", {3: update, 4: 1}, {1: nft.text(self.name)})


TCP = Match(L4PROTO, "tcp")
