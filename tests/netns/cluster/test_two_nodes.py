"""Two nodes with a proxy each: what becomes of connections and datagrams, and whom pods see."""

import asyncio
from collections.abc import AsyncIterator, Iterable

import pytest_asyncio

from tests.netns.cluster.world import Node, Web, World
from tests.netns.e2e.callers import gets_no_answer, who_answers
from tests.netns.e2e.test_service_health import health
from tests.proxy_process import Address, eventually
from uproxy.kit.lab import POD_GATEWAY4, POD_GATEWAY6, Host

ALL, OUTSIDE, INSIDE, ZONES, NODES, OWN = (
    Web(name, number)
    for number, name in enumerate(("all", "outside", "inside", "zones", "nodes", "own"), start=1)
)
ALONE = Web("alone", 7)
HEALTH_PORT = 31999
POD_COUNT = 4


@pytest_asyncio.fixture
async def cluster(two_nodes: World) -> AsyncIterator[World]:
    """Both proxies run, and have programmed every Service of this file."""
    made = two_nodes
    pod1, pod2, pod3, _ = made.pods
    made.put(ALL, made.pods, type="NodePort")
    local = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": HEALTH_PORT}
    made.put(OUTSIDE, [pod1, pod2], **local)
    made.put(INSIDE, [pod1, pod3], internalTrafficPolicy="Local")
    made.put(ALONE, [pod1], internalTrafficPolicy="Local")
    made.put(OWN, [pod1], type="NodePort")
    zones = [made.endpoint(pod1, zones=("zone-a",)), made.endpoint(pod3, zones=("zone-b",))]
    made.api.put(ZONES.service(trafficDistribution="PreferClose"), *ZONES.slices(*zones))
    named = [
        made.endpoint(pod, nodes=(made.endpoint(pod).node,), zones=("zone-a", "zone-b")) for pod in made.pods
    ]
    made.api.put(NODES.service(trafficDistribution="PreferSameNode"), *NODES.slices(*named))
    first, second = made.nodes
    async with made.proxy(first), made.proxy(second):
        yield made


def both(service: Web, node: Node | None = None) -> list[tuple[Address, str]]:
    """Its VIPs, or its NodePorts at a node, in both families, for TCP and UDP."""
    return [
        (address, protocol)
        for protocol in ("TCP", "UDP")
        for address in (service.at(node, protocol) if node else service.addresses(protocol))
    ]


async def told(host: Host, where: Iterable[tuple[Address, str]]) -> list[set[str]]:
    """What a host is told at each of these, by everybody who is there: pods take turns."""
    return [{await who_answers(host, *at) for _ in range(POD_COUNT)} for at in where]


async def pods_that_answer(host: Host, where: Iterable[tuple[Address, str]]) -> set[frozenset[str]]:
    """The pods that answer at each of these: one set, if they agree."""
    return {frozenset(words.split()[0] for words in found) for found in await told(host, where)}


async def lost(host: Host, where: Iterable[tuple[Address, str]]) -> bool:
    """Whether none of these answers or refuses."""
    return all(await asyncio.gather(*(gets_no_answer(host, *one) for one in where)))


def only(*names: str) -> set[frozenset[str]]:
    return {frozenset(names)}


async def test_every_pod_answers_from_everywhere(cluster: World) -> None:
    everybody = only("pod1", "pod2", "pod3", "pod4")
    for node in cluster.nodes:
        for host in (node.host, *(pod.host for pod in node.pods)):
            assert await pods_that_answer(host, both(ALL)) == everybody
        cluster.lab.lead_client_by(node.host)
        assert await pods_that_answer(cluster.client, [*both(ALL), *both(ALL, node)]) == everybody


async def test_a_node_without_endpoints_takes_nothing_from_outside_and_says_so(cluster: World) -> None:
    first, second = cluster.nodes
    assert await pods_that_answer(cluster.client, both(OUTSIDE, first)) == only("pod1", "pod2")
    assert await lost(cluster.client, both(OUTSIDE, second))
    assert await health(cluster.client, (first.host.ip4, HEALTH_PORT)) == (200, 2)
    assert await health(cluster.client, (second.host.ip4, HEALTH_PORT)) == (503, 0)
    for host in (second.host, second.pods[0].host):  # inside, the way through another node is no detour
        assert await pods_that_answer(host, [*both(OUTSIDE, second), *both(OUTSIDE)]) == only("pod1", "pod2")


async def test_a_node_that_gets_an_endpoint_serves(cluster: World) -> None:
    first, second = cluster.nodes
    cluster.put(
        OUTSIDE,
        cluster.pods[:3],
        type="LoadBalancer",
        externalTrafficPolicy="Local",
        healthCheckNodePort=HEALTH_PORT,
    )

    async def serves() -> bool:
        return await health(cluster.client, (second.host.ip4, HEALTH_PORT)) == (200, 1)

    await eventually(serves, "an endpoint on the second node")
    assert await health(cluster.client, (first.host.ip4, HEALTH_PORT)) == (200, 2)
    assert await pods_that_answer(cluster.client, both(OUTSIDE, second)[:1]) == only("pod3")


async def test_local_traffic_stays_on_its_node(cluster: World) -> None:
    for node, pod in zip(cluster.nodes, ("pod1", "pod3"), strict=True):
        for host in (node.host, *(pod.host for pod in node.pods)):
            assert await pods_that_answer(host, both(INSIDE)) == only(pod)
    first, second = cluster.nodes
    assert await pods_that_answer(first.pods[1].host, both(ALONE)) == only("pod1")
    for host in (second.host, second.pods[0].host):
        assert await lost(host, both(ALONE))


async def test_hints_are_for_one_node_or_zone(cluster: World) -> None:
    first, second = cluster.nodes
    for host in (first.host, first.pods[1].host):
        assert await pods_that_answer(host, both(ZONES)) == only("pod1")
        assert await pods_that_answer(host, both(NODES)) == only("pod1", "pod2")
    for host in (second.host, second.pods[1].host):
        assert await pods_that_answer(host, both(ZONES)) == only("pod3")
        assert await pods_that_answer(host, both(NODES)) == only("pod3", "pod4")


async def test_a_pod_reaches_itself_by_its_own_service(cluster: World) -> None:
    node = cluster.nodes[0]
    assert await pods_that_answer(node.pods[0].host, [*both(OWN), *both(OWN, node)]) == only("pod1")


async def test_whom_pods_see(cluster: World) -> None:
    """docs/semantics.md, "The client's address"."""
    first, _ = cluster.nodes
    pod = first.pods[0].host
    for family in (0, 1):
        gateway = (POD_GATEWAY4, POD_GATEWAY6)[family]
        at = [one for one in both(ALL) if (":" in one[0][0]) == family]
        for host, seen in seen_by_pods(cluster, gateway, first, pod, family).items():
            expected = {f"pod{number} sees {ip}" for number, ip in enumerate(seen, 1)}
            assert await told(host, at) == [expected] * 2


def seen_by_pods(cluster: World, gateway: str, node: Node, pod: Host, family: int) -> dict[Host, list[str]]:
    """Whom pod1, pod2, pod3, pod4 see when the client asks, node-1, and pod1."""
    client_ip, node_ip, pod_ip = (_ip(host, family) for host in (cluster.client, node.host, pod))
    of_node = [gateway, gateway, node_ip, node_ip]
    if "tproxy" not in cluster.way.flags:
        return {cluster.client: of_node, node.host: of_node, pod: of_node}
    return {
        cluster.client: [client_ip, client_ip, node_ip, node_ip],
        node.host: of_node,
        pod: [gateway, pod_ip, pod_ip, pod_ip],
    }


def _ip(host: Host, family: int) -> str:
    return (host.ip4, host.ip6)[family]
