"""Whatever others have in nf_tables: ours works beside it, and nothing of theirs changes by one byte."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import closing

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.netns.kernel.foreign import Foreign, Raw, flowtable, foreigners, make, some, theirs
from tests.netns.kernel.test_nft import web
from tests.pure.steering.test_steering_rendering import BRIDGES, DELIVERED, FLIPPED, INSIDE, PORTS, RULES
from uproxy.errors import CommandFailed
from uproxy.handoff import accounting, nft_chains, nftables
from uproxy.handoff.nftables import NftablesHandoff
from uproxy.kernel.conntrack import Conntrack
from uproxy.kernel.nft import NftNetlink
from uproxy.kernel.nft_commands import Command, DeleteTable
from uproxy.kernel.nft_messages import FAMILIES, Table
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


async def _everything_of_ours() -> None:
    """Start, change, handoff and end, twice: the second after a crash."""
    for render in (nft.table, tproxy.table):
        rules = NftRules(PORTS, render)
        await rules.replace(RULES if render is nft.table else DELIVERED, INSIDE)
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
        make(foreign)
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
    first = some(1)[0]
    note = Raw("", first.objects[0].message)

    def inside() -> None:
        before = theirs()
        commit([note])
        assert theirs() != before
        commit([DeleteTable(_table(first))])
        assert theirs() == before

    node.inside(inside)
