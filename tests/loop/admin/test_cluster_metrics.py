"""`uproxy_kubernetes_*`, and what /healthz says of an API server that is away."""

import json
from dataclasses import replace

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.loop.admin.conftest import ABOUT, settings
from uproxy.admin.http import Pages, start_http
from uproxy.sources.kubernetes.status import ResourceStatus

WELL = ResourceStatus(
    resource="services",
    synced=True,
    disconnected_since_s=None,
    last_error="",
    lists=2,
    events=30,
    failures=4,
    denied=1,
    skipped=5,
    objects=25,
)


@pytest.fixture
async def ask(proxy):
    """Asks for a page while resources stand as given; returns status and body."""
    statuses = []
    pages = Pages(proxy.store, proxy.dataplane, proxy.loop, ABOUT, settings(), followed=lambda: statuses)
    servers = await start_http(pages, ("127.0.0.1", 0), ("127.0.0.2", 0))

    async def ask_(path, *given):
        statuses[:] = given
        address = servers.health_address if path == "/healthz" else servers.metrics_address
        async with aiohttp.ClientSession() as session, session.get(f"http://{address}{path}") as response:
            return response.status, await response.text()

    yield ask_
    await servers.close()


def samples(text):
    families = text_string_to_metric_families(text)
    return {
        one.name.removeprefix("uproxy_kubernetes_"): one.value
        for family in families
        for one in family.samples
        if one.name.startswith("uproxy_kubernetes_") and one.labels == {"resource": "services"}
    }


async def test_every_resource_is_counted(ask):
    _, text = await ask("/metrics", WELL, replace(WELL, resource="nodes", objects=1))
    assert samples(text) == {
        "connected": 1,
        "disconnected_seconds": 0,
        "lists_total": 2,
        "events_total": 30,
        "failures_total": 4,
        "denied_total": 1,
        "skipped": 5,
        "objects": 25,
    }
    assert 'uproxy_kubernetes_objects{resource="nodes"} 1.0\n' in text


async def test_it_is_told_for_how_long_nobody_answers(proxy, ask):
    away = replace(WELL, disconnected_since_s=proxy.context.now() - 100)
    _, text = await ask("/metrics", away)
    assert samples(text)["connected"] == 0
    assert 100 <= samples(text)["disconnected_seconds"] < 200


async def test_without_a_cluster_there_are_none(ask):
    _, text = await ask("/metrics")
    assert samples(text) == {}


async def test_an_api_server_that_is_away_is_said_and_is_no_illness(proxy, ask):
    await proxy.apply()
    status, text = await ask("/healthz", WELL)
    assert (status, "apiServerAwaySince" in json.loads(text)) == (200, False)
    since_s = proxy.context.now() - 100
    status, text = await ask("/healthz", WELL, replace(WELL, disconnected_since_s=since_s))
    body = json.loads(text)
    assert (status, body["healthy"]) == (200, True)
    assert body["apiServerAwaySince"] < body["currentTime"]
