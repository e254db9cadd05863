"""Verdicts, and the table that turns changes into the difference to be programmed."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uproxy.model.frontend import Backend, Changes, DesiredServicePort, Frontend, FrontendKind
from uproxy.model.names import IPAddress, Protocol, ServicePortName, Vip
from uproxy.model.options import Options
from uproxy.steering.rules import Rule, RuleDelta, RuleTable, Verdict, alone, rule, tproxy_rule

VIPS = tuple(
    Vip(ip_address(ip), 80, Protocol.TCP)
    for ip in ("172.30.0.1", "172.30.0.2", "fd00:172:30::1", "0.0.0.0", "::")
)

TO_US, REFUSED = Rule(Verdict.REDIRECT, alone=True), Rule(Verdict.REJECT, alone=True)
BOUND = Rule(alone=True)
"""A socket is bound to a ClusterIP itself."""


def _service(name: str, vips: tuple[Vip, ...], backends: int = 1) -> DesiredServicePort:
    usable = tuple(Backend(ip_address(f"10.0.0.{number}"), 8080) for number in range(1, backends + 1))
    return DesiredServicePort(
        name=ServicePortName("default", name, "", vips[0].protocol if vips else Protocol.TCP),
        port=80,
        frontends=tuple(Frontend(vip, FrontendKind.CLUSTER_IP, vip.family) for vip in vips),
        endpoints={},
        usable={4: usable, 6: usable},
    )


@pytest.mark.parametrize(
    ("protocol", "backends", "expected"),
    [
        pytest.param(Protocol.TCP, 1, TO_US, id="tcp"),
        pytest.param(Protocol.TCP, 0, REFUSED, id="tcp-without-backends"),
        pytest.param(Protocol.UDP, 1, BOUND, id="udp-is-bound-not-redirected"),
        pytest.param(Protocol.UDP, 0, REFUSED, id="udp-without-backends"),
        pytest.param(Protocol.SCTP, 1, None, id="sctp"),
        pytest.param(Protocol.SCTP, 0, None, id="sctp-without-backends"),
    ],
)
def test_verdict(protocol: Protocol, backends: int, expected: Rule | None) -> None:
    port = _service("web", (VIPS[0]._replace(protocol=protocol),), backends)
    assert rule(port, port.frontends[0]) == expected


def test_clients_that_are_held_are_not_refused() -> None:
    port = replace(_service("web", VIPS[:1], backends=0), options=Options(hold_s=1.0))
    assert rule(port, port.frontends[0]) == TO_US


@pytest.mark.parametrize(
    ("protocol", "kind", "ip", "backends", "expected"),
    [
        pytest.param("TCP", "ClusterIP", "172.30.0.1", 1, TO_US, id="tcp"),
        pytest.param("TCP", "ExternalIP", "203.0.113.7", 1, Rule(Verdict.REDIRECT), id="tcp-external"),
        pytest.param("UDP", "ClusterIP", "172.30.0.1", 1, BOUND, id="udp-with-a-local-route"),
        pytest.param("UDP", "ExternalIP", "203.0.113.7", 1, Rule(Verdict.DELIVER), id="udp-external"),
        pytest.param("UDP", "LoadBalancer", "203.0.113.7", 1, Rule(Verdict.DELIVER), id="udp-load-balancer"),
        pytest.param("UDP", "ExternalIP", "203.0.113.7", 0, Rule(Verdict.REJECT), id="udp-without-backends"),
        pytest.param("UDP", "NodePort", "0.0.0.0", 1, None, id="udp-node-port"),
        pytest.param("SCTP", "ExternalIP", "203.0.113.7", 1, None, id="sctp"),
    ],
)
def test_rule_under_tproxy(protocol: str, kind: str, ip: str, backends: int, expected: Rule | None) -> None:
    vip = Vip(ip_address(ip), 53, Protocol(protocol))
    port = _service("dns", (vip,), backends)
    assert tproxy_rule(port, Frontend(vip, FrontendKind(kind), 4)) == expected


def test_rule_under_tproxy_keeps_who_may_come() -> None:
    allowed = (ip_network("203.0.113.0/24"),)
    vip = Vip(ip_address("198.51.100.9"), 53, Protocol.UDP)
    frontend = Frontend(vip, FrontendKind.LOAD_BALANCER, 4, allowed=allowed)
    assert tproxy_rule(_service("dns", (vip,)), frontend) == Rule(Verdict.DELIVER, allowed=allowed)


def test_a_table_decides_as_it_is_told() -> None:
    table = RuleTable(lambda _port, _frontend: Rule(Verdict.DELIVER))
    table.want(Changes(updated=(_service("web", VIPS[:1]),)))
    assert table.wanted == {VIPS[0]: Rule(Verdict.DELIVER)}


def test_verdict_goes_by_the_family_of_the_backends() -> None:
    """A loopback address may stand in for an IPv6 clusterIP."""
    backend = Backend(ip_address("fd00::1"), 8080)
    stand_in = Frontend(Vip(ip_address("127.1.0.1"), 80, Protocol.TCP), FrontendKind.CLUSTER_IP, 6)
    name = ServicePortName("default", "web", "", Protocol.TCP)
    port = DesiredServicePort(name, 80, (stand_in,), endpoints={}, usable={6: (backend,)})
    assert rule(port, stand_in) == TO_US


def _settled(*updated: DesiredServicePort) -> RuleTable:
    table = RuleTable()
    table.want(Changes(updated=updated))
    table.settle()
    return table


def test_change_between_two_sets_of_backends_needs_no_rule() -> None:
    table = _settled(_service("web", VIPS[:2], backends=1))
    table.want(Changes(updated=(_service("web", VIPS[:2], backends=3),)))
    assert not table.delta()


def test_last_backend_gone_flips_the_verdict_in_one_delta() -> None:
    table = _settled(_service("web", VIPS[:1]))
    table.want(Changes(updated=(_service("web", VIPS[:1], backends=0),)))
    assert table.delta() == RuleDelta({VIPS[0]: REFUSED}, {VIPS[0]: TO_US})


def test_vip_that_moves_to_another_service_in_one_batch_needs_no_rule() -> None:
    table = _settled(_service("old", VIPS[:1]))
    moved = Changes(updated=(_service("new", VIPS[:1]),), removed=(_service("old", ()).name,))
    table.want(moved)
    assert not table.delta()
    assert table.wanted == {VIPS[0]: TO_US}


def test_what_failed_is_still_owed_after_the_next_change() -> None:
    table = _settled(_service("web", VIPS[:2]))
    table.want(Changes(removed=(_service("web", ()).name,)))
    table.want(Changes(updated=(_service("other", VIPS[2:3]),)))
    assert table.delta().remove.keys() == set(VIPS[:2])
    assert table.delta().add == {VIPS[2]: TO_US}
    assert table.delta().add_alone == {VIPS[2].ip}
    assert table.delta().remove_alone == {vip.ip for vip in VIPS[:2]}


def test_an_address_is_a_services_alone_as_long_as_one_of_its_ports_is_there() -> None:
    http, https = VIPS[0], VIPS[0]._replace(port=443)
    table = RuleTable()
    table.want(Changes(updated=(_service("http", (http,)), _service("https", (https,)))))
    assert table.delta().add_alone == {http.ip}
    table.settle()
    table.want(Changes(removed=(_service("http", ()).name,)))
    assert table.delta() == RuleDelta({}, {http: TO_US})
    table.settle()
    table.want(Changes(removed=(_service("https", ()).name,)))
    assert table.delta() == RuleDelta({}, {https: TO_US}, frozenset(), frozenset([http.ip]))
    table.settle()
    assert not table.delta()


# A batch in numbers, which hypothesis draws far faster than objects: for some of four
# Services, its VIPs as bits and its number of backends, or -1 backends for its removal.
numbers = st.dictionaries(st.integers(0, 3), st.tuples(st.integers(0, 15), st.integers(-1, 2)), max_size=3)


def _changes(batch: dict[int, tuple[int, int]]) -> Changes:
    updated, removed = [], []
    for number, (bits, backends) in batch.items():
        # Each Service has VIPs of its own, as the desired state sees to.
        # Two of them share an address.
        vips = tuple(
            VIPS[number // 2]._replace(port=100 * number + bit) for bit in range(1, 5) if bits >> bit - 1 & 1
        )
        port = _service(f"web{number}", vips, max(backends, 0))
        if backends < 0:
            removed.append(port.name)
        else:
            updated.append(port)
    return Changes(tuple(updated), tuple(removed))


@given(st.lists(st.tuples(numbers, st.booleans()), max_size=8))
def test_deltas_always_lead_from_the_programmed_to_the_wanted(
    steps: list[tuple[dict[int, tuple[int, int]], bool]],
) -> None:
    """Each delta is valid on what is there, whichever transactions failed before it."""
    table, kernel, kernel_alone = RuleTable(), dict[Vip, Rule](), set[IPAddress]()
    state: dict[ServicePortName, DesiredServicePort] = {}
    for batch, succeeds in [*steps, ({}, True)]:
        changes = _changes(batch)
        for name in changes.removed:
            state.pop(name, None)
        state.update((port.name, port) for port in changes.updated)
        table.want(changes)
        delta = table.delta()
        assert delta.remove.items() <= kernel.items()
        assert not (delta.add.keys() - delta.remove.keys()) & kernel.keys()
        assert delta.remove_alone <= kernel_alone
        assert not delta.add_alone & kernel_alone
        if succeeds:
            kernel_alone = (kernel_alone - delta.remove_alone) | delta.add_alone
            kernel = {vip: what for vip, what in kernel.items() if vip not in delta.remove} | dict(delta.add)
            table.settle()
            assert not table.delta()
    assert kernel == table.wanted
    assert kernel_alone == alone(table.wanted)
    assert kernel == {
        frontend.vip: rule(port, frontend) for port in state.values() for frontend in port.frontends
    }


@given(numbers)
def test_a_second_identical_change_needs_no_rule(batch: dict[int, tuple[int, int]]) -> None:
    table = RuleTable()
    table.want(_changes(batch))
    table.settle()
    table.want(_changes(batch))
    assert not table.delta()
