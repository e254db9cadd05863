"""Events, as kube-proxy words them."""

import asyncio
from collections import Counter
from datetime import UTC, datetime

from uproxy.admin import events
from uproxy.admin.events import QUEUE_MAX, Events, event_object, service_health_failed, started
from uproxy.errors import UproxyError
from uproxy.model.names import NamespacedName

AT = datetime(2025, 3, 1, 12, 0, 0, 5, tzinfo=UTC)
WEB = NamespacedName("shop", "web")


def test_the_start_is_an_event_on_the_node():
    namespace, event = event_object(started("node-1"), "node-1", AT)
    assert namespace == "default"
    assert event == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "node-1.1828ac0686339388", "namespace": "default"},
        "eventTime": "2025-03-01T12:00:00.000005Z",
        "reportingController": "uproxy",
        "reportingInstance": "uproxy-node-1",
        "action": "StartKubeProxy",
        "reason": "Starting",
        "regarding": {"kind": "Node", "name": "node-1", "uid": "node-1"},
        "note": "",
        "type": "Normal",
    }


def test_a_health_check_port_that_cannot_be_had_is_an_event_on_the_service():
    namespace, event = event_object(service_health_failed("node-1", WEB, 30100, "in use"), "node-1", AT)
    assert namespace == event["metadata"]["namespace"] == "shop"
    assert (event["reason"], event["action"], event["type"]) == (
        "FailedToStartServiceHealthcheck",
        "Listen",
        "Warning",
    )
    assert event["note"] == 'node node-1 failed to start healthcheck "shop/web" on port 30100: in use'
    assert event["regarding"] == {
        "apiVersion": "v1",
        "kind": "Service",
        "namespace": "shop",
        "name": "web",
        "uid": "shop/web",
    }


def test_addresses_that_cannot_be_served_are_events_on_the_node():
    reasons = [make("node-1", "x").reason for make in (events.health_failed, events.metrics_failed)]
    assert reasons == ["FailedToStartProxierHealthcheck", "FailedToStartMetricServer"]


def test_what_an_api_server_would_refuse_is_cut_short():
    _, event = event_object(service_health_failed("n" * 200, WEB, 1, "x" * 2000), "n" * 200, AT)
    assert len(event["note"]) == 1024
    assert len(event["reportingInstance"]) == 128


async def posted(fails: int, count: int) -> tuple[Counter, list[str]]:
    """`count` notices, the first `fails` of which cannot be posted."""
    seen: list[str] = []

    async def post(_namespace, event):
        seen.append(event["reason"])
        if len(seen) <= fails:
            raise UproxyError("no API server answers")

    outcomes: Counter[str] = Counter()
    made = Events(post, "node-1", lambda: AT, outcomes)
    for _ in range(count):
        made.tell(started("node-1"))
    running = asyncio.ensure_future(made.run())
    await made.flush()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return outcomes, seen


async def test_failures_are_counted_and_no_more():
    outcomes, seen = await posted(fails=1, count=3)
    assert len(seen) == 3
    assert outcomes == {"failed": 1, "posted": 2}


async def test_too_many_at_once_are_dropped_and_counted():
    outcomes, seen = await posted(fails=0, count=QUEUE_MAX + 5)
    assert len(seen) == QUEUE_MAX
    assert outcomes == {"dropped": 5, "posted": QUEUE_MAX}
