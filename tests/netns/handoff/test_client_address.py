"""Whom a pod sees in the kernel: the client itself, where the pod is on this node and answers pass here."""

from collections.abc import Iterator

import pytest

from tests.manifests import Manifest
from tests.netns.e2e.servers import Greeter, Witness
from tests.netns.e2e.stage import Stage, way
from tests.netns.e2e.test_client_address import (
    GATEWAYS,
    bridged,
    bridged_and_routed,
    routed,
    seen,
    served,
    told_everywhere,
)
from tests.netns.handoff.test_moves import handed, until_path
from tests.proxy_process import ProxyProcess
from uproxy.kit.lab import POD_GATEWAY4, POD_GATEWAY6, Lab

pytestmark = pytest.mark.parametrize("way", [way("redirect-nft", "native-2")], indirect=True, ids=str)
HERE = "this-node"


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with Lab(pods=2, routed_pods=request.param == "routed", node_default_route=True) as lab:
        yield lab


@pytest.fixture
def greeter() -> type[Greeter]:
    return Witness


def on(node: str | None, objects: list[Manifest]) -> list[Manifest]:
    """The same, with endpoints on this node."""
    for endpoint in (endpoint for its in objects[1:] for endpoint in its["endpoints"]):
        endpoint["nodeName"] = node
    return objects


def proxy(stage: Stage, node: str | None) -> ProxyProcess:
    """One that carries all in the kernel, with endpoints on a node."""
    objects = on(node, handed(served(stage), "always"))
    return stage.proxy(objects, "--handoff", "nftables", "--hostname-override", HERE)


@bridged_and_routed
async def test_pods_of_this_node_see_clients_from_outside(stage: Stage) -> None:
    async with proxy(stage, HERE) as its:
        await until_path(its, "nftables")
        client = stage.client
        assert await told_everywhere(stage, client) == [seen(ip, ip) for ip in (client.ip4, client.ip6)]
        assert await told_everywhere(stage, stage.node) == [seen(ip, ip) for ip in GATEWAYS]


@pytest.mark.parametrize("node", ["another-node", None])
@bridged
async def test_others_see_the_node(stage: Stage, node: str | None) -> None:
    async with proxy(stage, node) as its:
        await until_path(its, "nftables")
        assert await told_everywhere(stage, stage.client) == [seen(ip, ip) for ip in GATEWAYS]


@routed
async def test_a_pod_is_seen_by_others_as_it_is_and_by_itself_as_the_node(stage: Stage) -> None:
    async with proxy(stage, HERE) as its:
        await until_path(its, "nftables")
        pod = stage.pods[0].host
        assert await told_everywhere(stage, pod) == [
            seen(POD_GATEWAY4, pod.ip4),
            seen(POD_GATEWAY6, pod.ip6),
        ]


@bridged
async def test_pods_of_one_bridge_see_the_node(stage: Stage) -> None:
    """They would answer each other past it."""
    # A pod that calls itself needs its bridge's port to send back what came from there.
    for number in (1, 2):
        stage.node.run("ip", "link", "set", f"pod{number}", "type", "bridge_slave", "hairpin", "on")
    async with proxy(stage, HERE) as its:
        await until_path(its, "nftables")
        assert await told_everywhere(stage, stage.pods[0].host) == [seen(ip, ip) for ip in GATEWAYS]


@bridged
async def test_whom_a_pod_sees_follows_its_node(stage: Stage) -> None:
    """Two Service ports lead to each pod: it is on this node while one of them says so, and no longer."""
    client = stage.client
    async with proxy(stage, HERE) as its:
        await until_path(its, "nftables")
        stage.write(on("another-node", handed(served(stage), "always")))
        for _ in range(50):
            found = await told_everywhere(stage, client)
            if found == [seen(ip, ip) for ip in GATEWAYS]:
                break
        assert found == [seen(ip, ip) for ip in GATEWAYS]
        table = stage.node.run("nft", "list", "set", "inet", "uproxy-handoff", "here4").stdout
        assert "elements" not in table
