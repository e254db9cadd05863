import json
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network

import pytest

from uproxy.admin.health import LATE_S, HealthState, node_eligible
from uproxy.model.events import Upsert
from uproxy.model.names import NamespacedName, Protocol, Vip
from uproxy.model.node import Node
from uproxy.model.service import Service, ServicePort
from uproxy.reconcile.loop import ReconcileLoop
from uproxy.state.addresses import AddressPlan
from uproxy.state.store import Store

NOW_S = 1000.0
WALL = datetime(2025, 3, 1, 12, 0, 0, tzinfo=UTC)
PRESENT = "2025-03-01T12:00:00Z"


@pytest.fixture
def loop():
    store = Store(AddressPlan(ip_network("10.96.0.0/16"), loopback_only=False))
    return ReconcileLoop(store, [], frozenset(), lambda: NOW_S, WALL.timestamp)


def ask(answer):
    return answer.status, json.loads(answer.body)


def test_not_ready_before_the_first_complete_programming(loop):
    health = HealthState(loop)
    never = {"lastUpdated": "0001-01-01T00:00:00Z", "healthy": False}
    assert ask(health.healthz(NOW_S, WALL, node_eligible=True)) == (
        503,
        {
            "lastUpdated": "0001-01-01T00:00:00Z",
            "currentTime": PRESENT,
            "nodeEligible": True,
            "healthy": False,
            "status": {"IPv4": never, "IPv6": never},
        },
    )
    assert health.livez(NOW_S, WALL).status == 503


def test_ready_once_all_is_programmed(loop):
    loop.programmed.set()
    well = {"lastUpdated": PRESENT, "healthy": True}
    body = {
        "lastUpdated": PRESENT,
        "currentTime": PRESENT,
        "healthy": True,
        "status": {"IPv4": well, "IPv6": well},
    }
    health = HealthState(loop)
    assert ask(health.livez(NOW_S, WALL)) == (200, body)
    assert ask(health.healthz(NOW_S, WALL, node_eligible=True)) == (200, body | {"nodeEligible": True})


def test_a_change_may_wait_for_a_while(loop):
    loop.programmed.set()
    loop._inbox_since_s = NOW_S - LATE_S
    assert HealthState(loop).healthz(NOW_S, WALL, node_eligible=True).status == 200


def test_unhealthy_when_a_change_waits_for_too_long(loop):
    loop.programmed.set()
    loop._inbox_since_s = NOW_S - LATE_S - 1
    health = HealthState(loop)
    for status, body in (
        ask(health.healthz(NOW_S, WALL, node_eligible=True)),
        ask(health.livez(NOW_S, WALL)),
    ):
        assert status == 503
        assert body["healthy"] is False
        assert body["lastUpdated"] == "2025-03-01T11:58:59Z"  # since when it waits
        assert body["status"]["IPv4"] == {"lastUpdated": "2025-03-01T11:58:59Z", "healthy": False}


def test_draining_turns_traffic_away_but_stays_alive(loop):
    loop.programmed.set()
    health = HealthState(loop)
    health.draining = True
    status, body = ask(health.healthz(NOW_S, WALL, node_eligible=True))
    assert (status, body["nodeEligible"], body["healthy"]) == (503, False, False)
    assert health.livez(NOW_S, WALL).status == 200


def test_a_node_that_is_leaving_takes_no_new_traffic_but_lives(loop):
    loop.programmed.set()
    health = HealthState(loop)
    status, body = ask(health.healthz(NOW_S, WALL, node_eligible=False))
    assert (status, body["nodeEligible"], body["healthy"]) == (503, False, False)
    assert body["status"]["IPv4"]["healthy"]
    assert health.livez(NOW_S, WALL).status == 200
    assert list(body) == ["lastUpdated", "currentTime", "nodeEligible", "healthy", "status"]


@pytest.mark.parametrize(
    ("node", "awaited", "eligible"),
    [
        pytest.param(None, False, True, id="manifests know of no node"),
        pytest.param(None, True, False, id="the cluster has it no more"),
        pytest.param(Node("here"), True, True, id="there"),
        pytest.param(Node("here", leaving=True), True, False, id="tainted or being deleted"),
    ],
)
def test_which_node_may_be_sent_traffic(node, awaited, eligible):
    assert node_eligible(node, awaited) is eligible


def test_a_machine_on_which_nothing_can_be_programmed_is_not_healthy(loop):
    loop.programmed.set()
    vips = [Vip(ip_address(ip), 80, Protocol.TCP) for ip in ("10.96.0.1", "fd00::1")]
    name = NamespacedName("default", "web")
    port = ServicePort("", Protocol.TCP, 80, 80)
    loop.store.apply([Upsert(Service(name, (port,), cluster_ips=tuple(vip.ip for vip in vips)))])
    (known,) = loop.store.desired
    health = HealthState(loop)

    def asked(*troubled):
        loop.problems = {known: dict.fromkeys(troubled, "no local route")} if troubled else {}
        status, body = ask(health.healthz(NOW_S, WALL, node_eligible=True))
        assert health.livez(NOW_S, WALL).status == status
        return status, *(body["status"][family]["healthy"] for family in ("IPv4", "IPv6"))

    assert asked() == (200, True, True)
    assert asked(vips[1]) == (200, True, False)
    assert asked(*vips) == (503, False, False)
    assert asked() == (200, True, True)
