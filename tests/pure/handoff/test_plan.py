"""What the kernel could carry, and what keeps a Service port in userspace."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from uproxy.handoff.plan import KernelVip, holding, kernel_port
from uproxy.model.frontend import Backend, DesiredServicePort, EndpointState, Frontend, FrontendKind
from uproxy.model.names import Protocol, ServicePortName, Vip
from uproxy.model.options import PREFIX, parse_options

ONE, TWO = Backend(ip_address("10.244.0.11"), 8080), Backend(ip_address("10.244.1.12"), 8080)
SIX = Backend(ip_address("fd00::1"), 8080)
CLUSTER = Frontend(Vip(ip_address("10.96.0.1"), 80, Protocol.TCP), FrontendKind.CLUSTER_IP, 4)
OUTSIDE = Frontend(
    Vip(ip_address("203.0.113.1"), 80, Protocol.TCP), FrontendKind.LOAD_BALANCER, 4, local=True
)


def port(*frontends: Frontend, usable=(ONE, TWO), local=(), annotations=()) -> DesiredServicePort:
    options, faults = parse_options({PREFIX + key: value for key, value in annotations})
    assert not faults
    name = ServicePortName("default", "web", "", Protocol.TCP)
    states = dict.fromkeys((*usable, *local), EndpointState.READY)
    return DesiredServicePort(name, 80, frontends, states, {4: usable}, local={4: local}, options=options)


def test_every_address_with_its_endpoints():
    found = kernel_port(port(CLUSTER))
    assert found is not None
    assert found.vips == (KernelVip(CLUSTER.vip, (ONE, TWO), (ONE, TWO)),)


def test_clients_outside_and_inside_may_have_other_endpoints():
    found = kernel_port(port(OUTSIDE, local=(ONE,)))
    assert found is not None
    assert found.vips == (KernelVip(OUTSIDE.vip, (ONE,), (ONE, TWO)),)


def test_where_not_everybody_may_come_that_has_to_be_asked_first():
    found = kernel_port(port(replace(CLUSTER, allowed=(ip_network("203.0.113.0/24"),))))
    assert found is not None
    assert [its.guarded for its in found.vips] == [True]


def test_addresses_on_loopback_stay_with_the_relay():
    node_port = Frontend(Vip(ip_address("127.0.0.1"), 30080, Protocol.TCP), FrontendKind.NODE_PORT, 4)
    found = kernel_port(port(CLUSTER, node_port))
    assert found is not None
    assert [its.vip for its in found.vips] == [CLUSTER.vip]
    assert kernel_port(port(node_port)) is None


def test_without_endpoints_there_is_nothing_to_carry():
    assert kernel_port(port(CLUSTER, usable=())) is None


@pytest.mark.parametrize(
    "annotations",
    [
        [("balancing", "least-connections"), ("slow-start", "5s")],
        [("removed-endpoints", "reset")],
        [("max-connection-age", "1h")],
        [("max-connections-per-endpoint", "10"), ("queue", "5")],
        [("hold", "5s")],
        [("proxy-protocol", "v2")],
        [("balancing", "maglev")],
        [("balancing", "p2c")],
    ],
    ids=lambda its: its[-1][0] + "-" + its[-1][1],
)
def test_what_only_a_relay_can_do_keeps_it_there(annotations):
    held = port(CLUSTER, annotations=annotations)
    assert kernel_port(held) is None
    assert any(annotations[-1][0] in what for what in holding(held))


def test_source_ranges_keep_datagrams_there_and_nothing_else():
    held = port(replace(OUTSIDE, allowed=(ip_network("192.0.2.0/24"),)))
    assert holding(held) == []
    assert holding(replace(held, name=held.name._replace(protocol=Protocol.UDP))) == [
        "source ranges of datagrams"
    ]


def test_endpoints_of_the_other_family_keep_it_there():
    assert holding(port(CLUSTER, usable=(SIX,))) == ["endpoints of the other IP family"]


def test_who_asks_for_a_scheduler_of_ipvs_is_not_held_by_its_balancing():
    asked = port(CLUSTER, annotations=[("balancing", "least-connections"), ("ipvs-scheduler", "lc")])
    found = kernel_port(asked)
    assert found is not None
    assert found.scheduler == "lc"
    assert replace(found, scheduler="rr") == kernel_port(port(CLUSTER))
