"""What the machine holds before, during and after a run: strays, foreigners, sizes, failures."""

import asyncio
import re
import socket
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

import pytest

from tests.netns.kernel_state import kernel_state
from uproxy.app.carriers import own_routes, routes_beside_redirect
from uproxy.kit.lab import Host, Lab
from uproxy.model.frontend import Backend, Changes, DesiredServicePort, Frontend, FrontendKind
from uproxy.model.names import Protocol, ServicePortName, Vip
from uproxy.steering.bridges import BridgeAnswers
from uproxy.steering.cleanup import cleanup
from uproxy.steering.landing import LANDING
from uproxy.steering.policy_routes import TABLE, PolicyRoutes, remove_policy_routes
from uproxy.steering.probe import OK, Mechanism, probe
from uproxy.steering.routes import LocalRoutes
from uproxy.steering.rules import RedirectPorts
from uproxy.steering.target import SteeringRules, steering_rules, tproxy_rules

T = TypeVar("T")
Target = SteeringRules | LocalRoutes | PolicyRoutes | BridgeAnswers
PORTS = RedirectPorts(15001, 15006)
ADDRESSES = ("172.30.0.1", "fd00:172:30::1", "0.0.0.0", "::")
BOTH = pytest.mark.parametrize("mechanism", [Mechanism.NFT, Mechanism.IPTABLES])

FOREIGN_NFT = "table inet foreign { chain c { type filter hook input priority 0; tcp dport 9 drop; }; }"
FOREIGN_IPTABLES = """\
*mangle
-A PREROUTING -p tcp -m tcp --dport 9 -j DROP
-A OUTPUT -p tcp -m tcp --dport 9 -j DROP
COMMIT
*nat
:FOREIGN - [0:0]
-A PREROUTING -p tcp -m tcp --dport 9 -j FOREIGN
-A OUTPUT -p tcp -m tcp --dport 9 -j FOREIGN
COMMIT
*filter
-A INPUT -p tcp -m tcp --dport 9 -j DROP
-A FORWARD -p tcp -m tcp --dport 9 -j DROP
-A OUTPUT -p tcp -m tcp --dport 9 -j DROP
COMMIT
"""
FOREIGN_SETS = "create FOREIGN hash:ip\nadd FOREIGN 192.0.2.1\ncreate uproxy-like hash:ip\n"
FOREIGN_ROUTES = """\
route add local 192.0.2.77/32 dev lo proto 118 table local
route add local 2001:db8::77/128 dev lo proto 118 table local
"""


@pytest.fixture
def node() -> Iterator[Host]:
    """A node on which others have rules of every kind."""
    with Lab(pods=0) as lab:
        lab.node.run("nft", "-f", "-", input=FOREIGN_NFT)
        lab.node.run("iptables-restore", "--noflush", input=FOREIGN_IPTABLES)
        lab.node.run("ip6tables-restore", "--noflush", input=FOREIGN_IPTABLES)
        lab.node.run("ipset", "restore", input=FOREIGN_SETS)
        lab.node.run("ip", "-batch", "-", input=FOREIGN_ROUTES)
        yield lab.node


def _run(node: Host, work: Callable[[], Coroutine[object, object, T]]) -> T:
    return node.inside(lambda: asyncio.run(work()))


def _rules(node: Host, mechanism: Mechanism) -> SteeringRules:
    return node.inside(lambda: steering_rules(mechanism, PORTS))


def _make(node: Host, target: Target, *updated: DesiredServicePort) -> dict[Vip, str]:
    return dict(_run(node, lambda: target.make(Changes(updated=updated))))


def _snapshot(node: Host) -> str:
    """The state of the kernel without the seeds and sizes of hashes, which change by themselves."""
    return re.sub(r"initval 0x\w+|hashsize \d+", "", kernel_state(node))


def _service(
    number: int = 1, *, backends: bool = True, protocol: Protocol = Protocol.TCP
) -> DesiredServicePort:
    port = 30000 + number
    kinds = {True: FrontendKind.NODE_PORT, False: FrontendKind.CLUSTER_IP}
    ips = [ip_address(address) for address in ADDRESSES]
    backend = Backend(ip_address("10.244.0.11"), 8080)
    return DesiredServicePort(
        name=ServicePortName("default", f"web{number}", "", protocol),
        port=port,
        frontends=tuple(
            Frontend(Vip(ip, port, protocol), kinds[ip.is_unspecified], ip.version) for ip in ips
        ),
        endpoints={},
        usable={4: (backend,), 6: (backend,)} if backends else {},
    )


def _everything() -> list[DesiredServicePort]:
    """Service ports that between them have an element in every set."""
    return [_service(1), _service(2, backends=False), _service(3, backends=False, protocol=Protocol.UDP)]


@BOTH
def test_close_leaves_the_machine_as_it_was(node: Host, mechanism: Mechanism) -> None:
    before = _snapshot(node)
    rules, routes = _rules(node, mechanism), LocalRoutes(own_routes)
    assert _make(node, routes, *_everything()) == {}
    assert _make(node, rules, *_everything()) == {}
    assert _snapshot(node) != before
    _run(node, rules.close)
    _run(node, routes.close)
    assert _snapshot(node) == before


def test_cleanup_removes_what_any_run_left_and_says_so(node: Host) -> None:
    before = _snapshot(node)
    for mechanism in (Mechanism.NFT, Mechanism.IPTABLES):
        assert _make(node, _rules(node, mechanism), *_everything()) == {}
    assert _make(node, LocalRoutes(own_routes), *_everything()) == {}
    removed = _run(node, cleanup)
    assert _snapshot(node) == before
    for words in (
        "nftables table inet uproxy",
        "iptables nat chain UPROXY-CAPTURE",
        "ip6tables filter chain UPROXY-UNSERVED",
        "ipset UPROXY-VIP4",
        "local route 172.30.0.1",
        "local route fd00:172:30::1",
    ):
        assert words in removed
    assert _run(node, cleanup) == []


def test_cleanup_of_a_machine_without_the_tools_is_fine(
    node: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _run(node, cleanup) == []


@BOTH
def test_restart_after_a_kill_leaves_nothing_of_the_earlier_run(node: Host, mechanism: Mechanism) -> None:
    clean = _rules(node, mechanism)
    assert _make(node, clean, _service(1)) == {}
    expected = _snapshot(node)
    _run(node, clean.close)
    assert _make(node, _rules(node, mechanism), *_everything(), _service(9)) == {}
    assert _make(node, _rules(node, mechanism), _service(1)) == {}
    assert _snapshot(node) == expected


@BOTH
def test_prune_removes_what_a_run_with_the_other_mechanism_left(node: Host, mechanism: Mechanism) -> None:
    other = Mechanism.IPTABLES if mechanism is Mechanism.NFT else Mechanism.NFT
    rules = _rules(node, mechanism)
    assert _make(node, rules, *_everything()) == {}
    expected = _snapshot(node)
    assert _make(node, _rules(node, other), *_everything()) == {}
    _run(node, rules.prune)
    assert _snapshot(node) == expected


@BOTH
def test_number_of_rules_does_not_depend_on_the_number_of_vips(node: Host, mechanism: Mechanism) -> None:
    def rules() -> list[str]:
        elements = re.compile(r"elements = \{[^}]*\}|^(add|create) .*$", re.MULTILINE)
        return [line for line in elements.sub("", _snapshot(node)).splitlines() if line.strip()]

    target = _rules(node, mechanism)
    assert _make(node, target, _service(1)) == {}
    one = rules()
    many = [_service(number, backends=number % 2 == 0) for number in range(1, 1001)]
    assert _make(node, target, *many) == {}
    assert "172.30.0.1 . 30500" in _snapshot(node) or "172.30.0.1,tcp:30500" in _snapshot(node)
    assert rules() == one


@BOTH
def test_changes_leave_the_same_as_programming_at_once(node: Host, mechanism: Mechanism) -> None:
    at_once = _rules(node, mechanism)
    assert _make(node, at_once, _service(1, backends=False), _service(3)) == {}
    expected = _snapshot(node)
    _run(node, at_once.close)
    rules = _rules(node, mechanism)
    assert _make(node, rules, _service(1), _service(2)) == {}
    assert _make(node, rules, _service(1, backends=False), _service(3)) == {}
    _run(node, lambda: rules.make(Changes(removed=(_service(2).name,))))
    assert sorted(_snapshot(node).splitlines()) == sorted(expected.splitlines())


def test_a_ruleset_flushed_by_others_is_reported_once_and_made_again(node: Host) -> None:
    rules = _rules(node, Mechanism.NFT)
    assert _make(node, rules, _service(1)) == {}
    node.run("nft", "delete", "table", "inet", "uproxy")
    failed = _make(node, rules, _service(2))
    assert failed.keys() == {frontend.vip for frontend in _service(2).frontends}
    assert all("No such file or directory" in reason for reason in failed.values())
    assert _make(node, rules, _service(2)) == {}
    table = node.run("nft", "list", "table", "inet", "uproxy").stdout
    assert "172.30.0.1 . 30001" in table
    assert "172.30.0.1 . 30002" in table


def test_ip6tables_out_of_order_costs_ipv6_alone(
    node: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "ip6tables-save"
    broken.write_text("#!/bin/sh\necho 'ip6tables-save: no IPv6 here' >&2; exit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    rules = _rules(node, Mechanism.IPTABLES)
    for service in (_service(1), _service(2), _service(2)):
        problems = _make(node, rules, service)
        assert problems.keys() == {f.vip for f in service.frontends if f.vip.family == 6}
        assert all("no IPv6 here" in reason for reason in problems.values())
    saved = node.run("ipset", "save").stdout
    assert "add UPROXY-VIP4 172.30.0.1,tcp:30002" in saved
    assert "UPROXY-VIP6" not in saved


def test_routes_share_an_address_until_its_last_service_port(node: Host) -> None:
    routes = LocalRoutes(own_routes)
    one, two = _service(1), _service(2)
    for changes in (Changes(updated=(one, two)), Changes(removed=(one.name,))):
        assert _run(node, partial(routes.make, changes)) == {}
        _run(node, partial(routes.retire, changes))
        ours = node.run("ip", "route", "show", "table", "local", "proto", "117").stdout
        assert ours.split()[:2] == ["local", "172.30.0.1"]
    _run(node, partial(routes.retire, Changes(removed=(two.name,))))
    assert node.run("ip", "route", "show", "table", "local", "proto", "117").stdout == ""
    assert node.run("ip", "-6", "route", "show", "table", "local", "proto", "117").stdout == ""


def test_prune_removes_stray_routes_and_keeps_adopted_ones(node: Host) -> None:
    node.run("ip", "route", "add", "local", "172.30.0.99/32", "dev", "lo", "proto", "117", "table", "local")
    assert _make(node, LocalRoutes(own_routes), _service(1)) == {}
    routes = LocalRoutes(own_routes)
    assert _make(node, routes, _service(1)) == {}
    _run(node, routes.prune)
    ours = node.run("ip", "route", "show", "table", "local", "proto", "117").stdout
    assert "172.30.0.1 " in ours
    assert "172.30.0.99" not in ours


def test_routes_that_somebody_removes_are_made_anew_and_said(
    node: Host, caplog: pytest.LogCaptureFixture
) -> None:
    routes = LocalRoutes(routes_beside_redirect)
    assert _make(node, routes, _service(1), _own_address_service(node)) == {}
    expected = _snapshot(node)
    _run(node, routes.check)
    assert not caplog.messages
    for lost in ("172.30.0.1", str(LANDING[4].network), str(LANDING[6].network)):
        node.run("ip", "-6" if ":" in lost else "-4", "route", "del", "local", lost, "table", "local")
    _run(node, routes.check)
    assert _snapshot(node) == expected
    assert len(caplog.messages) == 3
    assert "local route of 192.0.0.192/26 is made anew" in caplog.text


def test_address_of_the_node_itself_keeps_its_own_route(node: Host) -> None:
    own = _own_address_service(node)
    before = _snapshot(node)
    routes = LocalRoutes(own_routes)
    assert _make(node, routes, own) == {}
    assert node.run("ip", "-4", "route", "show", "table", "local", "proto", "117").stdout == ""
    _run(node, lambda: routes.retire(Changes(removed=(own.name,))))
    assert _snapshot(node) == before


def _own_address_service(node: Host) -> DesiredServicePort:
    name = ServicePortName("default", "own", "", Protocol.UDP)
    vips = [Vip(ip_address(ip), 53, Protocol.UDP) for ip in (node.ip4, node.ip6)]
    frontends = tuple(Frontend(vip, FrontendKind.EXTERNAL_IP, vip.family) for vip in vips)
    return DesiredServicePort(name=name, port=53, frontends=frontends, endpoints={}, usable={})


def test_a_route_that_cannot_be_made_harms_no_other(node: Host) -> None:
    node.sysctl("net.ipv6.conf.lo.disable_ipv6", 1)
    service = _service(1)
    problems = _make(node, LocalRoutes(own_routes), service)
    assert problems.keys() == {f.vip for f in service.frontends if str(f.vip.ip) == "fd00:172:30::1"}
    assert "172.30.0.1 " in node.run("ip", "route", "show", "table", "local", "proto", "117").stdout


def test_bridges_that_come_are_lifted_from_and_those_without_an_address_are_not(node: Host) -> None:
    before = _snapshot(node)
    answers = node.inside(BridgeAnswers)
    device = partial(node.inside, lambda: socket.if_nametoindex("cni0"))
    assert _make(node, answers, _service(1)) == {}  # the lab has one of its own, named pods
    without = _snapshot(node)
    node.run("ip", "link", "add", "cni0", "type", "bridge")
    assert _make(node, answers, _service(1)) == {}
    assert not answers.lifts(device(), 4)
    node.run("ip", "addr", "add", "10.88.0.1/16", "dev", "cni0")
    node.run("ip", "link", "add", "more", "type", "bridge")
    assert _make(node, answers, _service(1)) == {}
    assert answers.lifts(device(), 4)
    assert not answers.lifts(device(), 6)
    assert "10.88.0.0/16 : " in _snapshot(node)
    for name in ("cni0", "more"):
        node.run("ip", "link", "delete", name)
    assert _make(node, answers, _service(1)) == {}
    assert _snapshot(node) == without
    _run(node, answers.close)
    assert _snapshot(node) == before


def test_nothing_is_lifted_without_br_netfilter(node: Host) -> None:
    node.sysctl("net.bridge.bridge-nf-call-iptables", 0)
    answers = node.inside(BridgeAnswers)
    assert _make(node, answers, _service(1)) == {}
    pods = node.inside(lambda: socket.if_nametoindex("pods"))
    assert not answers.lifts(pods, 4)
    assert answers.lifts(pods, 6)


def _foreign_policy(node: Host) -> None:
    node.run("ip", "rule", "add", "fwmark", "0x9", "lookup", "118", "protocol", "118")
    node.run("ip", "route", "add", "local", "default", "dev", "lo", "table", "118", "protocol", "118")


def test_tproxy_leaves_the_machine_as_it_was(node: Host) -> None:
    _foreign_policy(node)
    before = _snapshot(node)
    targets: list[Target] = [PolicyRoutes(), node.inside(lambda: tproxy_rules(PORTS))]
    for target in targets:
        assert _make(node, target, *_everything()) == {}
    assert "chain deliver_prerouting" in _snapshot(node)
    for target in targets:
        _run(node, target.close)
    assert _snapshot(node) == before


def test_policy_routes_are_made_once_adopted_and_removed(node: Host) -> None:
    _foreign_policy(node)
    before = _snapshot(node)
    first = PolicyRoutes()
    assert _make(node, first, _service(1)) == {}
    expected = _snapshot(node)
    assert expected != before
    for routes in (first, PolicyRoutes()):  # the second comes after a crash of the first
        assert _make(node, routes, _service(2)) == {}
        assert _snapshot(node) == expected
    removed = _run(node, remove_policy_routes)
    assert removed == [f"IPv{family} policy route, table {TABLE}" for family in (4, 6)]
    assert _snapshot(node) == before
    assert _run(node, remove_policy_routes) == []


@pytest.mark.parametrize("lost", ["rule del priority 7", "rule del priority 8", f"route flush table {TABLE}"])
def test_policy_routes_of_which_a_part_is_lost_are_mended_and_removed(node: Host, lost: str) -> None:
    before = _snapshot(node)
    assert _make(node, PolicyRoutes(), _service(1)) == {}
    expected = _snapshot(node)
    node.run("ip", *lost.split())
    assert _make(node, PolicyRoutes(), _service(1)) == {}
    assert _snapshot(node) == expected
    node.run("ip", *lost.split())
    _run(node, PolicyRoutes().close)
    assert _snapshot(node) == before


def test_a_policy_route_that_cannot_be_made_costs_its_family_alone(node: Host) -> None:
    node.sysctl("net.ipv6.conf.lo.disable_ipv6", 1)
    routes, service = PolicyRoutes(), _service(1)
    problems = _make(node, routes, service)
    assert problems.keys() == {f.vip for f in service.frontends if f.vip.family == 6}
    assert all(reason.startswith("no policy route: ") for reason in problems.values())
    node.sysctl("net.ipv6.conf.lo.disable_ipv6", 0)
    assert _make(node, routes, service) == {}


def test_probe_finds_this_machine_able_and_touches_nothing(node: Host) -> None:
    before = _snapshot(node)
    found = _run(node, probe)
    assert (found.net_admin, found.nft, found.iptables, found.ip) == (OK, OK, OK, OK)
    assert found.tproxy == OK
    assert _snapshot(node) == before


def test_probe_names_the_package_of_a_missing_program(
    node: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("uproxy.kit.commands.SBIN", ())
    found = _run(node, probe)
    assert found.nft == OK  # by netlink, without any program
    assert found.iptables == "iptables-restore is not installed: apt-get install iptables"
    assert found.tproxy == "ip is not installed: apt-get install iproute2"
    assert found.ip == "ip is not installed: apt-get install iproute2"
