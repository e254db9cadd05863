"""What is handed to nft, ipset and iptables-restore, whole, as golden text."""

import re
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from uproxy.kernel.nft_commands import text_of
from uproxy.kit import netfilter
from uproxy.model.names import Protocol, Vip
from uproxy.steering import bridges, iptables, nft, policy_routes, tproxy
from uproxy.steering.routes import parse_failures, render_batch
from uproxy.steering.rules import RedirectPorts, Rule, RuleDelta, Verdict

GOLDEN = Path(__file__).parent / "golden"
PORTS = RedirectPorts(10401, 10601)


def _vip(ip: str, port: int, protocol: Protocol = Protocol.TCP) -> Vip:
    return Vip(ip_address(ip), port, protocol)


RULES = {
    _vip("fd00:172:30::1", 80): Rule(Verdict.REDIRECT, alone=True),
    _vip("172.30.0.2", 443): Rule(Verdict.REDIRECT),
    _vip("172.30.0.1", 80): Rule(Verdict.REDIRECT, alone=True),
    _vip("172.30.0.1", 53, Protocol.UDP): Rule(alone=True),
    _vip("fd00:172:30::1", 53, Protocol.UDP): Rule(alone=True),
    _vip("172.30.0.3", 80): Rule(Verdict.REJECT, alone=True),
    _vip("172.30.0.3", 53, Protocol.UDP): Rule(Verdict.REJECT),
    _vip("fd00:172:30::3", 53, Protocol.UDP): Rule(Verdict.REJECT),
    _vip("0.0.0.0", 30080): Rule(Verdict.REDIRECT),
    _vip("::", 30080): Rule(Verdict.REDIRECT),
    _vip("0.0.0.0", 30081): Rule(Verdict.REJECT),
    _vip("::", 30053, Protocol.UDP): Rule(Verdict.REJECT),
    _vip("172.30.0.4", 80): Rule(Verdict.DROP),
    _vip("172.30.0.5", 53, Protocol.UDP): Rule(inside_only=True),
    _vip("0.0.0.0", 30082): Rule(Verdict.REDIRECT, inside_only=True),
    _vip("198.51.100.9", 80): Rule(Verdict.REDIRECT, True, (ip_network("203.0.113.0/24"),)),
    _vip("2001:db8::9", 80): Rule(Verdict.REDIRECT, False, (ip_network("2001:db8:1::/48"),)),
}
DELIVERED = RULES | {
    _vip("203.0.113.7", 53, Protocol.UDP): Rule(Verdict.DELIVER),
    _vip("2001:db8::7", 53, Protocol.UDP): Rule(Verdict.DELIVER),
}
BRIDGES = [
    bridges.Bridge(3, "02:00:00:00:00:03", (ip_network("10.244.0.0/24"), ip_network("fd00:10:244::/64"))),
    bridges.Bridge(5, "02:00:00:00:00:05", (ip_network("10.88.0.0/16"),)),
]
INSIDE = [ip_network("10.244.1.0/24"), ip_network("fd00:10:244:1::/64")]
FLIPPED = RuleDelta(
    add={_vip("172.30.0.1", 80): Rule(Verdict.REJECT), _vip("::", 30090): Rule(Verdict.REDIRECT)},
    remove={_vip("172.30.0.1", 80): Rule(Verdict.REDIRECT), _vip("0.0.0.0", 30081): Rule(Verdict.REJECT)},
    add_alone=frozenset([ip_address("172.30.0.6")]),
    remove_alone=frozenset([ip_address("fd00:172:30::1")]),
)

# What an earlier run left, between the rules of others.
STRAYS = """\
*filter
:INPUT ACCEPT [0:0]
:UPROXY-INPUT - [0:0]
-A INPUT -j UPROXY-INPUT
-A INPUT -p tcp -m tcp --dport 9 -j DROP
-A UPROXY-INPUT -j RETURN
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:FOREIGN - [0:0]
:UPROXY-CAPTURE - [0:0]
:UPROXY-OF-OLD - [0:0]
-A PREROUTING -m comment --comment "not -j ours" -j FOREIGN
-A PREROUTING -j UPROXY-CAPTURE
-A UPROXY-CAPTURE -j UPROXY-OF-OLD
COMMIT
"""


@pytest.mark.parametrize(
    ("golden", "text"),
    [
        pytest.param("table.nft", nft.table(PORTS, RULES, INSIDE).text, id="nft-table"),
        pytest.param("tproxy.nft", tproxy.table(PORTS, DELIVERED, INSIDE).text, id="tproxy"),
        pytest.param("bridge.nft", bridges.table(BRIDGES, (4, 6)).text, id="bridges"),
        pytest.param("bridge4.nft", bridges.table(BRIDGES, (4,)).text, id="bridges-ipv4-alone"),
        pytest.param("nobridge.nft", bridges.table([], ()).text, id="no-bridges"),
        pytest.param("policy.routes", policy_routes.render_batch("add"), id="policy-routes"),
        pytest.param("delta.nft", text_of(nft.changes(FLIPPED)), id="nft-delta"),
        pytest.param("sets.ipset", iptables.render_sets(RULES, INSIDE, [4, 6]), id="ipset-all"),
        pytest.param("delta.ipset", iptables.render_set_delta(FLIPPED), id="ipset-delta"),
        pytest.param("fresh.iptables", iptables.render_rules(4, PORTS, saved=""), id="iptables"),
        pytest.param("fresh.ip6tables", iptables.render_rules(6, PORTS, saved=""), id="ip6tables"),
        pytest.param(
            "removal.iptables",
            netfilter.render_removal(STRAYS, ("mangle", "nat", "filter"), "UPROXY-"),
            id="iptables-removal",
        ),
    ],
)
def test_rendering_is_as_the_golden_file(golden: str, text: str) -> None:
    assert text == (GOLDEN / golden).read_text()


def test_what_is_connected_through_the_node_meets_no_chain() -> None:
    chains = re.findall("type (.*) hook (.*) priority", nft.table(PORTS, RULES, INSIDE).text)
    assert {hook for kind, hook in chains if kind != "nat"} == {"input", "output"}


def test_jumps_of_an_earlier_run_are_replaced_and_those_of_others_kept() -> None:
    lines = iptables.render_rules(4, PORTS, STRAYS).splitlines()
    deleted = [line for line in lines if line.startswith("-D ")]
    assert deleted == ["-D PREROUTING -j UPROXY-CAPTURE", "-D INPUT -j UPROXY-INPUT"]
    rest = [line for line in lines if line not in deleted]
    assert rest == iptables.render_rules(4, PORTS, saved="").splitlines()


def test_nothing_is_removed_where_nothing_is() -> None:
    assert (
        netfilter.render_removal("*nat\n:FOREIGN - [0:0]\nCOMMIT\n", ("mangle", "nat", "filter"), "UPROXY-")
        == ""
    )


def test_route_batch_names_the_prefix_of_each_family() -> None:
    networks = [ip_network("172.30.0.1"), ip_network("fd00::1"), ip_network("192.0.0.192/26")]
    assert render_batch("add", networks) == (
        "route add local 172.30.0.1/32 dev lo protocol 117 table local\n"
        "route add local fd00::1/128 dev lo protocol 117 table local\n"
        "route add local 192.0.0.192/26 dev lo protocol 117 table local\n"
    )


def test_only_real_failures_of_a_route_batch_count() -> None:
    stderr = (
        "RTNETLINK answers: File exists\nCommand failed -:1\n"
        "RTNETLINK answers: Permission denied\nCommand failed -:2\n"
        "RTNETLINK answers: No such process\nCommand failed -:4\n"
    )
    assert parse_failures(stderr) == {2: "RTNETLINK answers: Permission denied"}
