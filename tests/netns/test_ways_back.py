"""Where endpoints may see their clients' own addresses, by the routes of a real node."""

import socket
from collections.abc import Iterator

import pytest

from uproxy.dataplane.dial.ways_back import DOUBT_LASTS_S, ROUTE_LASTS_S, WaysBack
from uproxy.kit.lab import POD_GATEWAY4, Lab

INTERNET, INTERNET6 = "203.0.113.9", "2001:db8::9"
FAR, FAR6 = "10.250.0.11", "fd00:10:250::11"
"""Pods of another node, which the client's host leads to."""
OVERLAID = "10.251.0.11"
"""A pod behind a tunnel."""
NEIGHBOUR = "10.200.0.77"
"""Another host of the client's network, which is the default route's too."""
SPREAD, UNREACHABLE = "10.252.0.11", "10.253.0.11"

ROUTES = f"""\
route add 10.250.0.0/24 via 10.200.0.2
route add fd00:10:250::/64 via fd00:10:200::2
link add tunnel type veth peer name tunnel-end
link set tunnel-end up
link set tunnel up
route add 10.251.0.0/24 via 10.251.0.1 dev tunnel onlink
route add 10.252.0.0/24 nexthop via 10.200.0.2 nexthop via 10.200.0.77
route add unreachable {UNREACHABLE}
"""


class Clock:
    """Time as the test tells it."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def nothing_lifted(_device: int, _family: int) -> bool:
    return False


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(pods=2, routed_pods=True, node_default_route=True) as lab:
        lab.node.run("ip", "-batch", "-", input=ROUTES)
        yield lab


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ways(lab: Lab, clock: Clock) -> Iterator[WaysBack]:
    ways = lab.node.inside(lambda: WaysBack(clock, nothing_lifted))
    yield ways
    ways.close()


POD, POD2, POD6, POD2_6 = "10.244.0.11", "10.244.0.12", "fd00:10:244::11", "fd00:10:244::12"
CLIENT, CLIENT6 = "10.200.0.2", "fd00:10:200::2"


@pytest.mark.parametrize(
    ("client", "endpoint", "leads_here"),
    [
        pytest.param(CLIENT, POD, True, id="from-the-network"),
        pytest.param(CLIENT6, POD6, True, id="from-the-network-6"),
        pytest.param(INTERNET, POD, True, id="from-the-internet"),
        pytest.param(INTERNET6, POD6, True, id="from-the-internet-6"),
        pytest.param(POD2, POD, True, id="pod-to-pod"),
        pytest.param(POD, POD, False, id="to-itself"),
        pytest.param(POD, FAR, True, id="to-another-node"),
        pytest.param(POD6, FAR6, True, id="to-another-node-6"),
        pytest.param(POD, OVERLAID, True, id="through-a-tunnel"),
        pytest.param(OVERLAID, POD, True, id="out-of-a-tunnel"),
        pytest.param(CLIENT, OVERLAID, False, id="past-this-node"),
        pytest.param(POD, INTERNET, True, id="to-the-internet"),
        pytest.param(CLIENT, FAR, False, id="same-device"),
        pytest.param(POD, NEIGHBOUR, True, id="to-a-neighbour"),
        pytest.param(OVERLAID, NEIGHBOUR, False, id="neighbours-are-not-of-this-node"),
        pytest.param(SPREAD, POD, True, id="from-many-ways"),
        pytest.param(SPREAD, OVERLAID, False, id="many-ways-past-this-node"),
        pytest.param(UNREACHABLE, POD, False, id="from-nowhere"),
        pytest.param(CLIENT, UNREACHABLE, False, id="to-nowhere"),
        pytest.param("10.200.0.1", POD, False, id="from-the-node"),
        pytest.param(POD_GATEWAY4, POD, False, id="from-the-node-as-gateway"),
        pytest.param("127.0.0.1", POD, False, id="from-loopback"),
        pytest.param(CLIENT, "10.200.0.1", False, id="to-the-node"),
        pytest.param(CLIENT, POD6, False, id="other-family"),
        pytest.param("fe80::1", POD6, False, id="link-local"),
        pytest.param("fe80::1%eth0", POD6, False, id="link-local-with-its-zone"),
        pytest.param("nonsense", POD, False, id="no-address"),
    ],
)
def test_answers_lead_here(ways: WaysBack, client: str, endpoint: str, leads_here: bool) -> None:
    assert ways.lead_here(client, endpoint) is leads_here


def test_pods_of_one_bridge_answer_each_other_past_the_node_unless_lifted_off_it() -> None:
    with Lab(pods=2) as lab:
        ways = lab.node.inside(lambda: WaysBack(Clock(), nothing_lifted))
        assert not ways.lead_here(POD, POD2)
        assert ways.lead_here(CLIENT, POD)
        ways.close()
        bridge = lab.node.inside(lambda: socket.if_nametoindex("pods"))
        lifting = lab.node.inside(lambda: WaysBack(Clock(), lambda *asked: asked == (bridge, 4)))
        assert lifting.lead_here(POD, POD2)
        assert not lifting.lead_here(POD, POD)
        assert not lifting.lead_here(POD6, POD2_6)
        assert not lifting.lead_here(CLIENT, "10.200.0.77")
        lifting.close()


def test_a_changed_route_is_seen_after_a_while(lab: Lab, ways: WaysBack, clock: Clock) -> None:
    assert not ways.lead_here(CLIENT, "10.254.0.11")
    lab.node.run("ip", "route", "add", "10.254.0.11/32", "dev", "pod1")
    assert not ways.lead_here(CLIENT, "10.254.0.11")
    clock.now_s += ROUTE_LASTS_S
    assert ways.lead_here(CLIENT, "10.254.0.11")


def test_an_endpoint_that_did_not_answer_is_doubted_for_a_while(ways: WaysBack, clock: Clock) -> None:
    ways.doubt(POD)
    assert not ways.lead_here(CLIENT, POD)
    assert ways.lead_here(CLIENT, POD2)
    clock.now_s += DOUBT_LASTS_S
    assert ways.lead_here(CLIENT, POD)
