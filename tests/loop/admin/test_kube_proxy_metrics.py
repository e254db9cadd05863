"""The metrics that kube-proxy's dashboards and alerts ask for."""

from dataclasses import replace
from ipaddress import ip_address

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.loop.admin.conftest import STARTED_S, WEB, web_slice
from uproxy.admin.kube_proxy_metrics import without_local_endpoints
from uproxy.model.events import Upsert
from uproxy.model.frontend import Backend, DesiredServicePort, Frontend, FrontendKind
from uproxy.model.names import Protocol, ServicePortName, Vip

BY_FAMILY = {"ip_family"}
EXPECTED = {
    "kubeproxy_sync_proxy_rules_duration_seconds": ("histogram", BY_FAMILY),
    "kubeproxy_sync_proxy_rules_last_timestamp_seconds": ("gauge", BY_FAMILY),
    "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds": ("gauge", BY_FAMILY),
    "kubeproxy_network_programming_duration_seconds": ("histogram", BY_FAMILY),
    "kubeproxy_sync_proxy_rules_endpoint_changes_pending": ("gauge", set()),
    "kubeproxy_sync_proxy_rules_endpoint_changes_total": ("counter", set()),
    "kubeproxy_sync_proxy_rules_service_changes_pending": ("gauge", set()),
    "kubeproxy_sync_proxy_rules_service_changes_total": ("counter", set()),
    "kubeproxy_sync_proxy_rules_no_local_endpoints_total": ("gauge", {"traffic_policy", "ip_family"}),
    "kubeproxy_proxy_healthz_total": ("counter", {"code"}),
    "kubeproxy_proxy_livez_total": ("counter", {"code"}),
}
"""Names, types and labels of kube-proxy 1.36."""


async def fetch(address, path: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}{path}") as response:
        return await response.text()


async def scrape(servers):
    text = await fetch(servers.metrics_address, "/metrics")
    return [family for family in text_string_to_metric_families(text) if family.name.startswith("kubeproxy_")]


def value(families, name: str, **labels: str) -> float:
    (found,) = (
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )
    return found


async def test_names_types_and_labels_are_kube_proxys(proxy, servers, echo):
    await proxy.serve_web(echo)
    for page in ("/healthz", "/livez"):
        await fetch(servers.health_address, page)
    found = {}
    for family in await scrape(servers):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (family.type, labels)
    assert found == EXPECTED


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("sync_proxy_rules_duration_seconds", ["0.001", "0.002", "0.004"], ["8.192", "16.384", "+Inf"]),
        ("network_programming_duration_seconds", ["0", "0.25", "0.5", "1", "2"], ["270", "300", "+Inf"]),
    ],
)
async def test_buckets_are_written_as_kube_proxy_writes_them(servers, name, first, last):
    text = await fetch(servers.metrics_address, "/metrics")
    bounds = [
        line.partition('le="')[2].partition('"')[0]
        for line in text.splitlines()
        if line.startswith(f"kubeproxy_{name}_bucket") and 'ip_family="IPv4"' in line
    ]
    assert bounds[: len(first)] == first
    assert bounds[-len(last) :] == last


async def test_counts_follow_what_is_programmed(proxy, servers, echo):
    await proxy.serve_web(echo)
    proxy.wall_s = STARTED_S + 9
    moved = replace(web_slice(echo + 1).object, triggered_at_s=STARTED_S + 2)
    await proxy.apply(Upsert(moved))
    found = await scrape(servers)
    assert value(found, "kubeproxy_sync_proxy_rules_service_changes_total") == 1
    assert value(found, "kubeproxy_sync_proxy_rules_endpoint_changes_total") == 2
    assert value(found, "kubeproxy_sync_proxy_rules_endpoint_changes_pending") == 0
    for name in ("last", "last_queued"):
        moment = f"kubeproxy_sync_proxy_rules_{name}_timestamp_seconds"
        assert value(found, moment, ip_family="IPv6") == STARTED_S + 9
    programming = "kubeproxy_network_programming_duration_seconds"
    assert value(found, f"{programming}_count", ip_family="IPv4") == 1
    assert value(found, f"{programming}_sum", ip_family="IPv4") == 7.0
    assert value(found, f"{programming}_count", ip_family="IPv6") == 0


async def test_answers_of_health_checks_are_counted_by_status(proxy, servers):
    await fetch(servers.health_address, "/healthz")
    await proxy.apply()
    await proxy.loop.programmed.wait()
    for page in ("/healthz", "/healthz", "/livez"):
        await fetch(servers.health_address, page)
    found = await scrape(servers)
    assert value(found, "kubeproxy_proxy_healthz_total", code="503") == 1
    assert value(found, "kubeproxy_proxy_healthz_total", code="200") == 2
    assert value(found, "kubeproxy_proxy_livez_total", code="200") == 1


def local_port(kind: FrontendKind, usable, local) -> DesiredServicePort:
    vip = Vip(ip_address("172.30.0.1"), 80, Protocol.TCP)
    name = ServicePortName(*WEB, "", Protocol.TCP)
    held = (Frontend(vip, kind, 4, local=True),)
    return DesiredServicePort(name, 80, held, {}, {4: usable}, local={4: local})


BACKEND = (Backend(ip_address("10.0.0.1"), 80),)


@pytest.mark.parametrize(
    ("kind", "usable", "local", "expected"),
    [
        pytest.param(FrontendKind.CLUSTER_IP, BACKEND, (), {(4, "internal"): 1}, id="internal"),
        pytest.param(FrontendKind.NODE_PORT, BACKEND, (), {(4, "external"): 1}, id="external"),
        pytest.param(FrontendKind.NODE_PORT, BACKEND, BACKEND, {}, id="there is one"),
        pytest.param(FrontendKind.NODE_PORT, (), (), {}, id="there is none anywhere"),
    ],
)
def test_local_policies_without_local_endpoints_are_counted(kind, usable, local, expected):
    assert without_local_endpoints([local_port(kind, usable, local)]) == expected
