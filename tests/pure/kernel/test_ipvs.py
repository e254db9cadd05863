"""What is asked of IPVS, ipset and iptables, as text and as values."""

from ipaddress import ip_address, ip_network

import pytest

from uproxy.handoff.ipvs import IpvsHandoff
from uproxy.handoff.ipvs_plan import Shape, changes
from uproxy.handoff.ipvs_rules import (
    Kind,
    parse_before,
    render_elements,
    render_rules,
    render_sets,
    wanted_sysctls,
)
from uproxy.handoff.plan import KernelPort, KernelVip
from uproxy.kernel.conntrack import Conntrack
from uproxy.kernel.ipvs import Server
from uproxy.kit.netfilter import render_removal
from uproxy.model.frontend import Backend
from uproxy.model.names import Protocol, ServicePortName, Vip

VIP = Vip(ip_address("10.96.0.1"), 80, Protocol.TCP)
ONE, TWO = (Backend(ip_address(f"10.244.0.{last}"), 8080) for last in (1, 2))
TABLES = ("mangle", "nat")
RR = Server("rr")
SAVED = """\
*mangle
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:UPROXY_IPVS - [0:0]
-A PREROUTING -j OTHERS
-A PREROUTING -j UPROXY_IPVS
-A OUTPUT -m conntrack --ctstate NEW -j UPROXY_IPVS
-A UPROXY_IPVS -m set --match-set UPROXY_IPVS4 dst,dst -j MARK --set-xmark 0x3070/0xffffffff
COMMIT
*nat
:POSTROUTING ACCEPT [0:0]
:UPROXY_IPVS - [0:0]
-A POSTROUTING -m mark --mark 0x3070 -m ipvs --ipvs -j UPROXY_IPVS
-A UPROXY_IPVS -m comment --comment "sysctls before: conn_reuse_mode=1, conntrack=0"
-A UPROXY_IPVS -j MASQUERADE
COMMIT
"""


def words(before: Shape | None, now: Shape | None) -> list[str]:
    return [command.words for command in changes(VIP, before, now)]


def test_a_new_virtual_server_comes_with_its_destinations() -> None:
    assert words(None, Shape(RR, {ONE: 1})) == ["virtual server 10.96.0.1:80/TCP", f"{ONE} of {VIP}"]


def test_the_same_again_asks_for_nothing() -> None:
    assert words(Shape(RR, {ONE: 1}), Shape(RR, {ONE: 1})) == []


def test_who_comes_is_added_before_who_goes_is_removed() -> None:
    found = words(Shape(RR, {ONE: 1}), Shape(Server("wlc"), {TWO: 1}))
    assert found == [f"virtual server {VIP}", f"{TWO} of {VIP}", f"end of {ONE} of {VIP}"]


def test_a_change_of_weight_touches_nobody_else() -> None:
    assert words(Shape(RR, {ONE: 1, TWO: 1}), Shape(RR, {ONE: 0, TWO: 1})) == [f"weight of {ONE} of {VIP}"]


def test_a_virtual_server_goes_with_all_it_has() -> None:
    assert words(Shape(RR, {ONE: 1}), None) == [f"end of virtual server {VIP}"]
    assert words(None, None) == []


def test_elements() -> None:
    vips = [VIP, Vip(ip_address("fd00::1"), 53, Protocol.UDP)]
    assert render_elements("add", Kind.LEADS, vips) == (
        "add -exist UPROXY_IPVS4 10.96.0.1,tcp:80\nadd -exist UPROXY_IPVS6 fd00::1,udp:53\n"
    )


def test_rules_take_the_place_of_older_ones_and_leave_others_alone() -> None:
    text = render_rules(4, SAVED, {"conntrack": 0}, ())
    assert "-D PREROUTING -j UPROXY_IPVS\n" in text
    assert "OTHERS" not in text
    assert text.count("-j UPROXY_IPVS\n") == 6
    assert '--comment "sysctls before: conntrack=0"' in text


def test_who_is_seen_is_known_only_with_the_pods_of_this_node() -> None:
    pods = [ip_network("10.244.0.0/24")]
    assert render_rules(4, "", {}, pods).endswith(
        "-A UPROXY_IPVS -m addrtype ! --src-type LOCAL -m set ! --match-set UPROXY_IPVS_HERE4 src "
        "-m set ! --match-set UPROXY_IPVS_PODS4 src -m set --match-set UPROXY_IPVS_HERE4 dst -j RETURN\n"
        "-A UPROXY_IPVS -j MASQUERADE\nCOMMIT\n"
    )
    for unknown in (pods, [ip_network("::/0")]):
        assert "RETURN" not in render_rules(6, "", {}, unknown)
    assert render_sets([4], pods).endswith("flush UPROXY_IPVS_PODS4\nadd UPROXY_IPVS_PODS4 10.244.0.0/24\n")


def test_removal_is_what_is_there() -> None:
    assert render_removal("", TABLES, "UPROXY_IPVS") == ""
    assert render_removal(SAVED, TABLES, "UPROXY_IPVS").splitlines()[-5:] == [
        "*nat",
        "-D POSTROUTING -m mark --mark 0x3070 -m ipvs --ipvs -j UPROXY_IPVS",
        "-F UPROXY_IPVS",
        "-X UPROXY_IPVS",
        "COMMIT",
    ]


def test_what_sysctls_were_is_read_from_the_rules() -> None:
    assert parse_before(SAVED) == {"conn_reuse_mode": 1, "conntrack": 0}
    assert parse_before(render_rules(4, "", {}, ())) == {}
    assert parse_before("") == {}


@pytest.mark.parametrize(("kernel", "value"), [("5.4.0-42", 0), ("5.9.1", None), ("6.1.176", None)])
def test_port_reuse_is_left_as_it_is_where_it_costs_nothing(kernel: str, value: int | None) -> None:
    assert wanted_sysctls(kernel).get("conn_reuse_mode") == value


def test_who_is_refused() -> None:
    name, handoff = ServicePortName("default", "web", "", Protocol.TCP), IpvsHandoff(Conntrack())
    assert handoff.refusal(KernelPort(name, (KernelVip(VIP, (ONE,), (ONE,)),), 60, "mh")) is None
    assert handoff.refusal(KernelPort(name, (KernelVip(VIP, (ONE,), (TWO,)),))) is not None
    assert handoff.refusal(KernelPort(name, (KernelVip(VIP, (ONE,), (ONE,)),), scheduler="nq")) is not None
