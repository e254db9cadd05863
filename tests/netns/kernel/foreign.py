"""Objects of others in nf_tables, made and read as bytes: with anything as user data, as no nft writes it."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from hypothesis import strategies as st

from uproxy.kernel import nft_messages as nft
from uproxy.kernel.netlink import NETFILTER, Link, attribute, attributes
from uproxy.kernel.nft_commands import TakeId
from uproxy.kernel.nft_messages import Message, nest, u32

OURS = {(1, "uproxy"), (7, "uproxy"), (1, "uproxy-handoff")}
_NEW_OBJECT, _NEW_FLOWTABLE = 18, 22
_LISTED = {"tables": 1, "chains": 4, "rules": 7, "sets": 10, "objects": 19, "flowtables": 23}
_SUBSYSTEM = 10 << 8
_ABOUT_BYTES = 4


class Raw(NamedTuple):
    """A command that is no more than its bytes."""

    words: str
    message: Message

    @property
    def text(self) -> str:
        """None."""
        return ""

    def messages(self, take_id: TakeId) -> Iterator[Message]:
        """As it is."""
        yield self.message


class Foreign(NamedTuple):
    """One table of others."""

    family: int
    name: str
    objects: tuple[Raw, ...]


def _text(its: str) -> bytes:
    return its.encode() + b"\0"


NOTES = st.binary(max_size=200)
NAMES = st.one_of(
    st.sampled_from(["uproxy", "uproxy2", "uproxy-handoff", "kube-proxy", "filter"]),
    st.text("abcz_", min_size=1, max_size=12),
)
EXPRESSIONS = st.sampled_from([b"", nest(1, attribute(1, _text("counter")))])


@st.composite
def foreigners(draw: st.DrawFn) -> Foreign:
    """With sets, maps, chains, rules, elements and named counters."""
    family, name = draw(st.sampled_from(sorted(nft.FAMILIES.values()))), draw(NAMES)
    if (family, name) in OURS:
        name += "-not"
    table = attribute(1, _text(name))

    def raw(kind: int, flags: int, its: bytes, words: str) -> Raw:
        return Raw(words, Message(kind, flags, family, table + its))

    made = [raw(nft.NEW_TABLE, nft.CREATE, attribute(6, draw(NOTES)), "table")]
    for number in range(draw(st.integers(0, 3))):
        called = attribute(3, _text(f"c{number}")) + attribute(12, draw(NOTES))
        made.append(raw(nft.NEW_CHAIN, nft.CREATE, called, "chain"))
        rule = attribute(2, _text(f"c{number}")) + nest(4, draw(EXPRESSIONS)) + attribute(7, draw(NOTES))
        made.append(raw(nft.NEW_RULE, nft.CREATE | nft.APPEND, rule, "rule"))
    for number in range(draw(st.integers(0, 4))):
        made += [raw(*its) for its in draw(_sets(f"s{number}", number + 1))]
    if draw(st.booleans()):
        counter = attribute(2, _text("o")) + attribute(3, u32(1)) + nest(4, b"") + attribute(8, draw(NOTES))
        made.append(raw(_NEW_OBJECT, nft.CREATE, counter, "object"))
    return Foreign(family, name, tuple(made))


@st.composite
def _sets(draw: st.DrawFn, name: str, identity: int) -> list[tuple[int, int, bytes, str]]:
    is_map, size = draw(st.booleans()), draw(st.integers(1, 64))
    its = attribute(2, _text(name)) + attribute(10, u32(identity)) + attribute(3, u32(8 if is_map else 0))
    its += attribute(4, u32(draw(st.integers(0, 0xFFFFFFFF)))) + attribute(5, u32(size))
    its += attribute(13, draw(NOTES))
    if is_map:
        its += attribute(6, u32(draw(st.integers(0, 0xFFFF)))) + attribute(7, u32(4))
    made = [(nft.NEW_SET, nft.CREATE, its, "set")]
    keys = draw(st.lists(st.binary(min_size=size, max_size=size), max_size=3, unique=True))
    elements = b""
    for key in keys:
        data = nest(2, attribute(1, b"data")) if is_map else b""
        note = draw(NOTES)
        elements += nest(1, nest(1, attribute(1, key)) + data + (attribute(6, note) if note else b""))
    if keys:
        made.append((nft.NEW_ELEMENT, nft.CREATE, attribute(2, _text(name)) + nest(3, elements), "elements"))
    return made


def flowtable(name: str) -> list[Raw]:
    """A table that has one, of no device; for kernels that have them."""
    table = attribute(1, _text(name))
    hook = nest(3, attribute(1, u32(0)) + attribute(2, struct.pack("!i", -100)))
    made = Message(nft.NEW_TABLE, nft.CREATE, 1, table)
    flows = Message(_NEW_FLOWTABLE, nft.CREATE, 1, table + attribute(2, _text("f")) + hook)
    return [Raw("table", made), Raw("flowtable", flows)]


def theirs() -> list[tuple[str, bytes]]:
    """Everything that others have in this network namespace, byte for byte, in some order of its own."""
    link = Link(NETFILTER)
    try:
        found = []
        for words, kind in _LISTED.items():
            for body in link.dump_whole(_SUBSYSTEM | kind, bytes(_ABOUT_BYTES)):
                its = dict(attributes(body[_ABOUT_BYTES:]))
                if (body[0], _name(its[1])) in OURS:
                    continue
                found.append((words, body[:1] + body[_ABOUT_BYTES:]))
                if words == "sets":
                    found += [("element", one) for one in _elements(link, body[0], its)]
        return sorted(found)
    finally:
        link.close()


def _elements(link: Link, family: int, its: dict[int, bytes]) -> Iterator[bytes]:
    question = bytes((family, 0, 0, 0)) + attribute(1, its[1]) + attribute(2, its[2])
    for body in link.dump_whole(_SUBSYSTEM | nft.GET_ELEMENT, question):
        for kind, some in attributes(body[_ABOUT_BYTES:]):
            if kind == nft.ELEMENTS:
                yield from (its[1] + its[2] + one for _, one in attributes(some))


def _name(data: bytes) -> str:
    return data.rstrip(b"\0").decode()
