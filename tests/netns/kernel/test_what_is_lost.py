"""Whoever flushes, deletes or takes out something of ours is noticed; nobody is who does not."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from tests.netns.kernel.test_nft import VIPS, web
from uproxy.handoff.iptables import IptablesHandoff
from uproxy.handoff.nftables import NftablesHandoff
from uproxy.kernel.conntrack import Conntrack
from uproxy.kit.lab import Host, Lab
from uproxy.model.names import Protocol, Vip
from uproxy.steering import nft, tproxy
from uproxy.steering.iptables import IptablesRules
from uproxy.steering.nft import NftRules
from uproxy.steering.rules import RedirectPorts, Rule, Verdict

Lost = tuple[Callable[[], Awaitable[str | None]], Callable[[], Awaitable[object]]]
"""Looks, and the end."""
PORTS = RedirectPorts(30001, 30002)
OTHERS = ip_network("203.0.113.0/24"), ip_network("203.0.113.0/26"), ip_network("198.51.100.0/24")
RULES = {
    VIPS[0]: Rule(Verdict.REDIRECT, allowed=OTHERS[::2], alone=True),
    VIPS[1]: Rule(Verdict.REJECT),
    VIPS[2]: Rule(Verdict.REDIRECT, inside_only=True),
    Vip(ip_address("172.30.0.1"), 53, Protocol.UDP): Rule(None, alone=True),
    Vip(ip_address("203.0.113.1"), 53, Protocol.UDP): Rule(Verdict.DELIVER),
}


@pytest.fixture
def node() -> Iterator[Host]:
    with Lab() as lab:
        yield lab.node


async def handoff_nftables() -> Lost:
    mechanism = NftablesHandoff(Conntrack())
    await mechanism.begin([ip_network("10.244.0.0/24")])
    assert await mechanism.lost() is None
    await mechanism.put([replace(web(2), here=frozenset({ip_address("10.244.0.10")}))])
    return mechanism.lost, mechanism.close


async def sticky_nftables() -> Lost:
    mechanism = NftablesHandoff(Conntrack())
    await mechanism.begin([])
    assert await mechanism.lost() is None
    await mechanism.put([web(2, 300)])
    return mechanism.lost, mechanism.close


async def handoff_iptables() -> Lost:
    mechanism = IptablesHandoff(Conntrack())
    await mechanism.begin([])
    await mechanism.put([web(2, 300)])
    return mechanism.lost, mechanism.close


def steering(render: nft.Make) -> Callable[[], Awaitable[Lost]]:
    async def begin() -> Lost:
        rules, wanted = NftRules(PORTS, render), dict(RULES)
        if render is nft.table:
            del wanted[Vip(ip_address("203.0.113.1"), 53, Protocol.UDP)]
        await rules.replace(wanted, [ip_network("10.244.0.0/24")])
        assert await rules.lost(wanted, []) is None
        return lambda: rules.lost(wanted, []), rules.remove

    return begin


async def steering_iptables() -> Lost:
    rules, wanted, inside = IptablesRules(PORTS), dict(RULES), [ip_network("10.244.0.0/24")]
    del wanted[Vip(ip_address("203.0.113.1"), 53, Protocol.UDP)]
    await rules.replace(wanted, inside)
    return lambda: rules.lost(wanted, inside), rules.remove


ANY_NFT = ["nft flush ruleset", "nft delete table {t}", "nft flush table {t}"]
NFT = {
    handoff_nftables: [
        *(its.format(t="inet uproxy-handoff") for its in ANY_NFT),
        "nft flush chain inet uproxy-handoff leave",
        "nft flush map inet uproxy-handoff ahead4",
        "nft flush set inet uproxy-handoff here4",
        "nft flush set inet uproxy-handoff new_tcp6",
        "nft flush chain inet uproxy-handoff s1",
        "nft delete element inet uproxy-handoff s1 { 1 }",
        "nft delete element inet uproxy-handoff ahead4 { 172.30.0.1 . tcp . 80 }",
    ],
    sticky_nftables: ["nft flush chain inet uproxy-handoff s1_10.244.0.10_8080"],
    handoff_iptables: [
        "iptables -t nat -F",
        "iptables -t mangle -F",
        "iptables -t nat -F PREROUTING",
        "iptables -t nat -F UPROXY_H1",
        "ip6tables -t mangle -F UPROXY_HANDOFF",
    ],
    steering(nft.table): [
        *(its.format(t="inet uproxy") for its in ANY_NFT),
        "nft flush chain inet uproxy guard",
        "nft flush set inet uproxy redirect4",
        "nft flush set inet uproxy allowed4",
        "nft flush set inet uproxy served4",
        "nft flush set inet uproxy alone4",
        "nft flush set inet uproxy inside_nodeports4",
    ],
    steering(tproxy.table): ["nft flush set inet uproxy deliver4"],
    steering_iptables: [
        "iptables -F",
        "iptables -t nat -F",
        "iptables -t mangle -F PREROUTING",
        "ip6tables -t nat -F UPROXY-CAPTURE",
        "ipset flush",
        "ipset flush UPROXY-VIP4",
        "ipset flush UPROXY-PODS4",
    ],
}


@pytest.mark.parametrize(
    ("begin", "damage"), [pytest.param(begin, its, id=its) for begin, some in NFT.items() for its in some]
)
def test_damage_is_noticed_and_nothing_else(
    node: Host, begin: Callable[[], Awaitable[Lost]], damage: str
) -> None:
    async def found() -> tuple[str | None, str | None]:
        lost, close = await begin()
        node.run("nft", "add", "table", "inet", "somebody")
        before = await lost()
        node.run(*damage.split())
        try:
            return before, await lost()
        finally:
            await close()

    before, after = node.inside(lambda: asyncio.run(found()))
    assert before is None
    assert after is not None
