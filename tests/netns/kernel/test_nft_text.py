"""What goes to nf_tables by netlink, and the text of the same: `nft` prints one ruleset for both."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from ipaddress import collapse_addresses, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.pure.steering.test_steering_rendering import BRIDGES, DELIVERED, FLIPPED, INSIDE, PORTS, RULES
from uproxy.handoff import accounting, nft_chains
from uproxy.handoff.nft_batch import Batch, Counts, counter, dispatch, legs
from uproxy.handoff.plan import KernelPort, KernelVip
from uproxy.kernel import nft_expressions as packet
from uproxy.kernel.nft import NftNetlink
from uproxy.kernel.nft_commands import (
    AddChain,
    AddRule,
    AddSet,
    AddTable,
    Command,
    Definition,
    DeleteTable,
    text_of,
)
from uproxy.kernel.nft_messages import Table
from uproxy.kernel.nft_nat import Dnat, DnatMap
from uproxy.kernel.nft_statements import TCP, Match
from uproxy.kernel.nft_table import Set, rule
from uproxy.kernel.nft_types import INET_SERVICE, IPV4_ADDR, IPV6_ADDR, MARK
from uproxy.kit.lab import Host, Lab
from uproxy.model.affinity import Pinned
from uproxy.model.frontend import Backend
from uproxy.model.names import Family, IPNetwork, Protocol, ServicePortName, Vip
from uproxy.steering import bridges, nft, tproxy
from uproxy.steering.rules import Rule, Verdict

MANY = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # each example takes a while
)


@pytest.fixture(scope="module")
def node() -> Iterator[Host]:
    with Lab(pods=0) as lab:
        yield lab.node


def _ruleset(node: Host) -> tuple[str, Any]:
    printed = node.run("nft", "list", "ruleset").stdout
    return printed, _without_handles(json.loads(node.run("nft", "-j", "list", "ruleset").stdout))


def _without_handles(its: Any) -> Any:
    if isinstance(its, dict):
        return {key: _without_handles(one) for key, one in its.items() if key != "handle"}
    return [_without_handles(one) for one in its] if isinstance(its, list) else its


def _committed(node: Host, commands: Iterable[Command]) -> None:
    def commit() -> None:
        with closing(NftNetlink()) as link:
            link.commit(commands)

    node.inside(commit)


def assert_same(node: Host, text: str, commands: Iterable[Command]) -> None:
    """And what nft prints of it can be loaded again."""
    by_text = _loaded(node, text)
    node.run("nft", "flush", "ruleset")
    _committed(node, commands)
    by_netlink = _ruleset(node)
    assert by_netlink == by_text
    assert _loaded(node, by_netlink[0]) == by_netlink


def _loaded(node: Host, text: str) -> tuple[str, Any]:
    node.run("nft", "-f", "-", input=f"flush ruleset\n{text}")
    return _ruleset(node)


@pytest.mark.parametrize(
    "its",
    [
        pytest.param(nft.table(PORTS, RULES, INSIDE), id="redirect"),
        pytest.param(tproxy.table(PORTS, DELIVERED, INSIDE), id="tproxy"),
        pytest.param(bridges.table(BRIDGES, (4, 6)), id="bridge"),
        pytest.param(bridges.table(BRIDGES, (4,)), id="bridge-ipv4"),
        pytest.param(bridges.table([], ()), id="no-bridge"),
        pytest.param(nft_chains.table(INSIDE, accounting.note(before=True)), id="handoff"),
    ],
)
def test_whole_tables(node: Host, its: Definition) -> None:
    assert_same(node, its.text, its.commands())


def test_a_change(node: Host) -> None:
    its = nft.table(PORTS, RULES, INSIDE)
    change = nft.changes(FLIPPED)
    assert_same(node, its.text + text_of(change), [*its.commands(), *change])


def test_what_is_not_used_yet(node: Host) -> None:
    """Translation by a mark, of the port alone, and masks that are no whole bytes."""
    table = Table("inet", "more")
    address: dict[Family, Any] = {4: IPV4_ADDR, 6: IPV6_ADDR}
    maps = {family: Set(f"marks{family}", (MARK,), (its, INET_SERVICE)) for family, its in address.items()}
    rules = [
        rule(TCP, Dnat(80)),
        rule(Match(packet.NFPROTO, "ipv6"), TCP, Dnat(80)),
        rule(Match(packet.TCP_DPORT, 80), Dnat(8080, ip_address("10.0.0.1"))),
        rule(TCP, Dnat(8080, ip_address("fd00::1"))),
        rule(TCP, Dnat(8080, ip_address("10.0.0.1"), ip_address("10.0.0.6"))),
        rule(TCP, Dnat(8080, ip_address("fd00::1"), ip_address("fd00::6"))),
        *(rule(TCP, DnatMap(family, packet.MARK, its.name)) for family, its in maps.items()),
        rule(Match(packet.DADDR[4], "10.0.0.0/9"), Match(packet.SADDR[4], "172.16.0.0/12", negated=True)),
        rule(Match(packet.DADDR[6], "fd00::/13"), Match(packet.TCP_DPORT, 80, negated=True)),
        rule(Match(packet.SADDR[6], "fd00:10::/64"), comment="why not"),
    ]
    commands: list[Command] = [AddTable(table), *(AddSet(table, its) for its in maps.values())]
    commands += [AddChain(table, "c"), *(AddRule(table, "c", one) for one in rules)]
    assert_same(node, text_of(commands), commands)


# ---- with anything in their sets ----

ADDRESSES: dict[Family, st.SearchStrategy[Any]] = {4: st.ip_addresses(v=4), 6: st.ip_addresses(v=6)}
PROTOCOLS = st.sampled_from([Protocol.TCP, Protocol.UDP])
SPORTS = st.integers(1, 65535)


def networks(family: Family) -> st.SearchStrategy[IPNetwork]:
    width = 32 if family == 4 else 128
    return st.builds(
        lambda ip, length: ip_network((int(ip) if family == 4 else ip.packed, length), strict=False),
        ADDRESSES[family],
        st.one_of(st.integers(0, width), st.integers(width - 4, width)),
    )


def _rule(allowed: Sequence[IPNetwork], verdict: Verdict | None, inside: bool, alone: bool) -> Rule:
    return Rule(verdict, inside, tuple(collapse_addresses(allowed)), alone)  # type: ignore[type-var]


@st.composite
def programmed(draw: st.DrawFn) -> dict[Vip, Rule]:
    """Any VIPs with any rules that they may have."""
    found = {}
    for _ in range(draw(st.integers(0, 12))):
        family: Family = draw(st.sampled_from([4, 6]))
        is_node_port = draw(st.booleans())
        ip = ip_address("0.0.0.0" if family == 4 else "::") if is_node_port else draw(ADDRESSES[family])
        if ip.is_unspecified and not is_node_port:
            continue
        vip = Vip(ip, draw(SPORTS), draw(PROTOCOLS))
        verdicts = [None, Verdict.REJECT]
        verdicts += [Verdict.REDIRECT] if vip.protocol is Protocol.TCP else []
        verdicts += [] if is_node_port else [Verdict.DROP]
        verdicts += [Verdict.DELIVER] if vip.protocol is Protocol.UDP and not is_node_port else []
        allowed = [] if is_node_port else draw(st.lists(networks(family), max_size=4))
        alone = not is_node_port and draw(st.booleans())
        found[vip] = _rule(allowed, draw(st.sampled_from(verdicts)), draw(st.booleans()), alone)
    return found


INSIDES = st.lists(st.one_of(networks(4), networks(6)), max_size=8)


@MANY
@given(rules=programmed(), inside=INSIDES)
def test_steering_with_any_vips(node: Host, rules: dict[Vip, Rule], inside: list[IPNetwork]) -> None:
    its = tproxy.table(PORTS, rules, inside)
    assert_same(node, its.text, its.commands())


@st.composite
def apart(draw: st.DrawFn) -> list[bridges.Bridge]:
    """Bridges whose networks do not overlap, neighbours among them."""
    found = []
    for number, start in enumerate(draw(st.lists(st.integers(0, 40), unique=True, max_size=6))):
        mac = f"02:00:00:00:00:{number:02x}"
        its = (ip_network(f"10.{start}.0.0/16"), ip_network(f"fd00:{start:x}::/32"))
        found.append(bridges.Bridge(number, mac, its))
    return found


@MANY
@given(found=apart())
def test_any_bridges(node: Host, found: list[bridges.Bridge]) -> None:
    its = bridges.table(found, (4, 6))
    assert_same(node, its.text, its.commands())


@st.composite
def handed(draw: st.DrawFn) -> list[KernelPort]:
    """Any Service ports that the kernel may carry."""
    found = {}
    for number in range(draw(st.integers(0, 3))):
        protocol = draw(PROTOCOLS)
        name = ServicePortName("default", f"s{number}", "", protocol)
        vips = []
        for family in draw(st.lists(st.sampled_from([4, 6]), unique=True, max_size=2)):
            ip = draw(st.one_of(ADDRESSES[family], st.just(ip_address("0.0.0.0" if family == 4 else "::"))))
            ends = draw(st.lists(st.builds(Backend, ADDRESSES[family], SPORTS), max_size=3, unique=True))
            inside = draw(st.sampled_from([tuple(ends), tuple(ends[:1])]))
            vips.append(KernelVip(Vip(ip, draw(SPORTS), protocol), tuple(ends), inside, draw(st.booleans())))
        timeout_s = draw(st.sampled_from([None, 10800]))
        found.update({one.vip: KernelPort(name, (one,), timeout_s) for one in vips})
    return list(found.values())


@MANY
@given(ports=handed(), here=st.lists(st.one_of(*ADDRESSES.values()), max_size=4, unique=True))
def test_handoff_of_any_services(node: Host, ports: list[KernelPort], here: list[Any]) -> None:
    batch, found, names, counted = Batch(), {}, [], set()
    for leg, kind in (its for port in ports for its in legs(port)):
        name = f"s{len(names)}"
        names.append((name, leg))
        batch.chain(name, leg, None)
        found[dispatch(kind, leg.vip)] = name
        counted |= {(counter(leg.vip, one), Counts(one, leads=True)) for one in leg.backends}
    batch.count({one: (None, its) for one, its in counted})
    batch.lead({key: (None, name) for key, name in found.items()})
    batch.here(dict.fromkeys(here, (None, True)))
    its = nft_chains.table(INSIDE, accounting.note(before=False))
    commands = batch.commands()
    text = its.text + text_of(commands)
    assert_same(node, text, [*its.commands(), *commands])
    _taken_apart(node, names, found, here)


def _taken_apart(node: Host, names: list[Any], found: Any, here: list[Any]) -> None:
    """The kernel lets all of it go again."""
    batch = Batch()
    batch.lead({key: (name, None) for key, name in found.items()})
    batch.here(dict.fromkeys(here, (True, None)))
    for name, leg in names:
        batch.remove(name, leg)
    _committed(node, batch.commands())
    left = node.run("nft", "list", "table", "inet", "uproxy-handoff").stdout
    assert "goto s" not in left
    assert "chain s" not in left
    _committed(node, [DeleteTable(nft_chains.TABLE)])


def test_a_pinned_client_is_printed_as_it_is_written(node: Host) -> None:
    """But for the time that passes."""
    vip, pod = Vip(ip_address("172.30.0.1"), 80, Protocol.TCP), Backend(ip_address("10.244.0.1"), 8080)
    name = ServicePortName("default", "web", "", Protocol.TCP)
    ((leg, _),) = legs(KernelPort(name, (KernelVip(vip, (pod,), (pod,)),), 300))
    batch = Batch()
    batch.chain("s1", leg, None)
    batch.pin("s1", leg, [Pinned("192.0.2.1", pod, 100.0)])
    its = nft_chains.table([], "")
    node.run("nft", "flush", "ruleset")
    node.run("nft", "-f", "-", input=its.text + text_of(batch.commands()))
    assert "192.0.2.1 expires 3m1" in node.run("nft", "list", "ruleset").stdout
    _committed(node, [*its.commands(), *batch.commands()])
    assert "192.0.2.1 expires 3m1" in node.run("nft", "list", "ruleset").stdout
