"""The nf_tables of tests against the kernel's: both take the same, and refuse the same in the same words."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fake_nf_tables import NfTables
from uproxy.errors import CommandFailed
from uproxy.kernel import nft_expressions as packet
from uproxy.kernel.nft import NftNetlink
from uproxy.kernel.nft_commands import (
    AddChain,
    AddElements,
    AddRule,
    AddSet,
    AddTable,
    Command,
    DeleteChain,
    DeleteElements,
    DeleteSet,
    DeleteTable,
    FlushChain,
)
from uproxy.kernel.nft_expressions import numgen
from uproxy.kernel.nft_messages import Element, Table, Verdict
from uproxy.kernel.nft_statements import ACCEPT, InSet, VerdictMap, VerdictTurns, goto, jump
from uproxy.kernel.nft_table import Hook, Set, rule
from uproxy.kernel.nft_types import INET_SERVICE
from uproxy.kit.lab import Host, Lab

TABLES = [Table("inet", "one"), Table("ip", "one"), Table("inet", "n" * 255), Table("inet", "n" * 256)]
KEY = (INET_SERVICE,)
SETS = [Set("plain", KEY), Set("map", KEY, verdicts=True), Set("plain", KEY, verdicts=True), Set("none", KEY)]
HOOK = Hook("filter", "input", 0)


@pytest.fixture(scope="module")
def node() -> Iterator[Host]:
    with Lab(pods=0) as lab:
        yield lab.node


tables = st.one_of(st.just(TABLES[0]), st.just(TABLES[0]), st.just(TABLES[0]), st.sampled_from(TABLES))
names = st.sampled_from(["a", "b", "c"])
some_sets = st.sampled_from(SETS)
keys = st.integers(1, 3).map(lambda number: number.to_bytes(2, "big"))
leads_to = st.sampled_from(["b", "c", "d"])
rules = st.one_of(
    st.builds(lambda name: rule(goto(name)), leads_to),
    st.builds(lambda name: rule(jump(name), ACCEPT), leads_to),
    st.builds(lambda its: rule(InSet((packet.TH_DPORT,), its.name), ACCEPT), some_sets),
    st.builds(lambda its: rule(VerdictMap((packet.TH_DPORT,), its.name)), some_sets),
    st.lists(leads_to, min_size=1, max_size=2).map(
        lambda some: rule(VerdictTurns(numgen(len(some)), tuple(some)))
    ),
)


def _elements(its: Set, some: list[bytes], chain: str) -> list[Element]:
    leads_to: Any = Verdict("goto", chain) if its.is_map else b""
    return [Element(key, leads_to=leads_to) for key in some]


commands: st.SearchStrategy[Command] = st.one_of(
    st.builds(AddTable, tables),
    st.builds(AddChain, tables, names, st.sampled_from([None, None, HOOK])),
    st.builds(AddChain, tables, names, st.none()),
    st.builds(AddChain, tables, st.just("d"), st.none()),
    st.builds(AddRule, tables, st.just("a"), rules),
    st.builds(AddRule, tables, st.just("a"), rules),
    st.builds(AddSet, tables, some_sets),
    st.builds(
        lambda table, its, some, chain: AddElements(table, its, _elements(its, some, chain)),
        tables,
        some_sets,
        st.lists(keys, min_size=1, max_size=2),
        leads_to,
    ),
    st.builds(
        lambda table, its, some: DeleteElements(table, its, [Element(key) for key in some]),
        tables,
        some_sets,
        st.lists(keys, min_size=1, max_size=2, unique=True),
    ),
    st.builds(FlushChain, tables, names),
    st.builds(DeleteChain, tables, names),
    st.builds(DeleteSet, tables, some_sets),
    st.builds(DeleteTable, tables),
)
BEGIN: list[Command] = [AddTable(TABLES[0]), *(AddChain(TABLES[0], name) for name in "abc")]
BEGIN += [AddSet(TABLES[0], its) for its in SETS[:2]]


def _said(commit: Any, batch: list[Command]) -> str:
    try:
        commit(batch)
    except CommandFailed as error:
        return str(error)
    return ""


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(batches=st.lists(st.lists(commands, min_size=1, max_size=4), max_size=12))
def test_the_kernel_and_the_fake_say_the_same(node: Host, batches: list[list[Command]]) -> None:
    fake = NfTables()

    def both() -> None:
        with closing(NftNetlink()) as link:
            for one in TABLES[:3]:
                link.commit([AddTable(one), DeleteTable(one)])
            for batch in [BEGIN, *batches]:
                assert _without_element(_said(fake.commit, batch)) == _without_element(
                    _said(link.commit, batch)
                )

    node.inside(both)


def _without_element(words: str) -> str:
    """The kernel names one of several."""
    if not words.startswith("nf_tables: element "):
        return words.replace("deleted elements of", "elements of")
    _, _, rest = words.partition(" of ")
    return f"nf_tables: elements of {rest}"
