"""Whatever others have in nf_tables: ours works beside it, and nothing of theirs changes by one byte."""

import asyncio
import random
from collections.abc import Iterable, Iterator
from contextlib import closing

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.netns.kernel.foreign import Foreign, Raw, flowtable, foreigners, theirs
from tests.netns.kernel.test_nft import web
from tests.pure.steering.test_steering_rendering import BRIDGES, DELIVERED, FLIPPED, INSIDE, PORTS, RULES
from uproxy.errors import CommandFailed
from uproxy.handoff import accounting, nft_chains, nftables
from uproxy.handoff.nftables import NftablesHandoff
from uproxy.kernel.conntrack import Conntrack
from uproxy.kernel.netlink import attribute
from uproxy.kernel.nft import NftNetlink
from uproxy.kernel.nft_commands import Command, DeleteTable
from uproxy.kernel.nft_messages import FAMILIES, Message, Table, nest, u32
from uproxy.kit.lab import Host, Lab
from uproxy.steering import bridges, nft, tproxy
from uproxy.steering.bridges import remove_bridge_table
from uproxy.steering.nft import NftRules

SOME = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
NAMES = {number: name for name, number in FAMILIES.items()}


@pytest.fixture(scope="module")
def node() -> Iterator[Host]:
    with Lab(pods=0) as lab:
        yield lab.node


def commit(commands: Iterable[Command]) -> None:
    with closing(NftNetlink()) as link:
        link.commit(commands)


def _make(foreign: list[Foreign]) -> None:
    """What the kernel takes of it: an object that it refuses is left out."""
    with closing(NftNetlink()) as link:
        for table in foreign:
            for one in table.objects:
                try:
                    link.commit([one])
                except CommandFailed:
                    continue


async def _everything_of_ours() -> None:
    """Start, change, handoff and end, twice: the second after a crash."""
    for make in (nft.table, tproxy.table):
        rules = NftRules(PORTS, make)
        await rules.replace(RULES if make is nft.table else DELIVERED, INSIDE)
        await rules.apply(FLIPPED)
    commit(bridges.table(BRIDGES, (4, 6)).commands())
    mechanism = NftablesHandoff(Conntrack())
    for timeout_s in (None, 300):
        await mechanism.begin(INSIDE)
        for count in (1, 3, 2):
            await mechanism.put([web(count, timeout_s)])
        await mechanism.look()
        await mechanism.clients([web(1).name])
    await mechanism.take([web(1).name])
    await mechanism.tend()
    await mechanism.close()
    commit(nft_chains.table(INSIDE, accounting.note(before=True)).commands())  # of a run that was killed


async def _removed() -> list[str]:
    found = [*await nft.remove(), *await remove_bridge_table(), *await nftables.remove()]
    assert await nft.remove() == []
    return [words for words in found if "table" in words]


@SOME
@given(foreign=st.lists(foreigners(), max_size=4, unique_by=lambda one: (one.family, one.name)))
def test_nothing_of_others_changes(node: Host, foreign: list[Foreign]) -> None:
    def inside() -> None:
        _make(foreign)
        before = theirs()
        try:
            asyncio.run(_everything_of_ours())
            assert theirs() == before
            assert asyncio.run(_removed()) == [
                "nftables table inet uproxy",
                "nftables table bridge uproxy",
                "nftables table inet uproxy-handoff",
            ]
            assert theirs() == before
        finally:
            for table in foreign:
                with closing(NftNetlink()) as link:
                    link.commit([DeleteTable(_table(table))])

    node.inside(inside)


def _table(its: Foreign) -> Table:
    return Table(NAMES[its.family], its.name)


def test_beside_a_flowtable(node: Host) -> None:
    def inside() -> str:
        try:
            commit(flowtable("offload"))
        except CommandFailed as error:
            return str(error)
        before = theirs()
        asyncio.run(_everything_of_ours())
        asyncio.run(_removed())
        assert theirs() == before
        assert any(words == "flowtables" for words, _ in before)
        return ""

    if reason := node.inside(inside):
        pytest.skip(f"no flowtables in this kernel: {reason}")


def test_what_others_have_is_seen_when_it_changes(node: Host) -> None:
    """That the comparison can fail."""
    first = _some(1)[0]
    note = Raw("", first.objects[0].message)

    def inside() -> None:
        before = theirs()
        commit([note])
        assert theirs() != before
        commit([DeleteTable(_table(first))])
        assert theirs() == before

    node.inside(inside)


def _some(seed: int) -> list[Foreign]:
    """The same each time."""
    chance = random.Random(seed)
    tables = []
    for number in range(6):
        family = chance.choice(sorted(NAMES))
        tables.append(_drawn(family, f"foreign{number}", chance))
    return tables


def _drawn(family: int, name: str, chance: random.Random) -> Foreign:
    table = attribute(1, name.encode() + b"\0")
    made = [Raw("table", Message(0, 0x400, family, table))]
    for number in range(chance.randrange(1, 6)):
        size = chance.randrange(1, 17)
        its = attribute(2, b"s%d\0" % number) + attribute(10, u32(number + 1)) + attribute(3, u32(0))
        its += attribute(4, u32(chance.choice([0, 7, 8, 13, 1 << 20]))) + attribute(5, u32(size))
        its += attribute(13, chance.randbytes(chance.randrange(120)))
        made.append(Raw("set", Message(9, 0x400, family, table + its)))
        elements = nest(1, nest(1, attribute(1, chance.randbytes(size))) + attribute(6, chance.randbytes(30)))
        its = attribute(2, b"s%d\0" % number) + nest(3, elements)
        made.append(Raw("element", Message(12, 0x400, family, table + its)))
    return Foreign(family, name, tuple(made))
