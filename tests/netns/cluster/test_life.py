"""What happens to a cluster in its life, seen from one node: updates, outages, the end of objects."""

import json
from collections.abc import AsyncIterator
from time import monotonic

import pytest
import pytest_asyncio

from tests.cluster.api_server import replace
from tests.manifests import Manifest
from tests.netns.cluster.test_start import until_healthy
from tests.netns.cluster.world import Web, World
from tests.netns.e2e.callers import Load, answer, ask, datagrams
from tests.netns.e2e.servers import WHO, Witness
from tests.netns.e2e.stage import way
from tests.netns.kernel_state import nft_generation
from tests.proxy_process import ProxyProcess, eventually

WEB, OTHER, LATE = Web("web", 1), Web("other", 2), Web("late", 3)
NODE_PORTS = {"type": "NodePort", "externalIPs": ["203.0.113.7"]}
RESOURCES = 3

redirected = pytest.mark.parametrize("captured", [way("redirect-nft", "native-2")], indirect=True, ids=str)


@pytest_asyncio.fixture
async def proxy(one_node: World) -> AsyncIterator[ProxyProcess]:
    """It serves `web`, by all three pods."""
    one_node.put(WEB, one_node.pods, **NODE_PORTS)
    async with one_node.proxy(one_node.nodes[0]) as made:
        yield made


async def endpoints_of(proxy: ProxyProcess, name: str) -> set[tuple[str, str]]:
    """Addresses and states of a Service's TCP endpoints; empty without the Service."""
    rows = [row for row in await proxy.services() if (row["name"], row["protocol"]) == (name, "TCP")]
    return {(one["address"], one["state"]) for row in rows for one in row["endpoints"]}


async def until_served(proxy: ProxyProcess, web: Web, pods: tuple[Witness, ...]) -> None:
    """Wait until the TCP endpoints of a Service that would be dialled are these."""
    wanted = {f"{pod.host.ip4}:8080" for pod in pods}

    async def are_served() -> bool:
        found = await endpoints_of(proxy, web.name)
        return {address for address, state in found if state == "ready" and "[" not in address} == wanted

    await eventually(are_served, f"{web.name} at {wanted}")


async def connected(proxy: ProxyProcess) -> float:
    """How many resources the API server answers for."""
    return await proxy.metric("uproxy_kubernetes_connected")


async def until_connected(proxy: ProxyProcess, count: int) -> None:
    async def is_so() -> bool:
        return await connected(proxy) == count

    await eventually(is_so, f"{count} resources connected")


async def until_logged(proxy: ProxyProcess, words: str) -> None:
    async def is_logged() -> bool:
        return words in proxy.log

    await eventually(is_logged, f"{words!r} in the log")


async def test_a_rolling_update_costs_no_connection(one_node: World, proxy: ProxyProcess) -> None:
    pod1, pod2, pod3 = one_node.pods
    one = one_node.endpoint
    one_node.api.put(*WEB.slices(one(pod1), one(pod2)))
    await until_served(proxy, WEB, (pod1, pod2))
    async with Load(one_node.client, WEB.addresses()[0]) as load:
        for old, stays, new in ((pod1, pod2, pod3), (pod2, pod3, pod1), (pod3, pod1, pod2)):
            await new_beside(one_node, load, old, stays, new)
            await old_leaves(one_node, proxy, load, old, stays, new)
        assert load.errors_since() == []


async def new_beside(world: World, load: Load, old: Witness, stays: Witness, new: Witness) -> None:
    """A pod starts: not ready, and then ready."""
    one = world.endpoint
    world.api.put(*WEB.slices(one(old), one(stays), one(new, ready=False, serving=False)))
    world.api.put(*WEB.slices(one(old), one(stays), one(new)))
    await until_answered_by(load, old, stays, new)


async def old_leaves(
    world: World, proxy: ProxyProcess, load: Load, old: Witness, stays: Witness, new: Witness
) -> None:
    """A pod is terminated: it serves on, and is gone when nobody is left, and comes again."""
    one = world.endpoint
    world.api.put(*WEB.slices(one(old, ready=False, terminating=True), one(stays), one(new)))
    await until_answered_by(load, stays, new)

    async def is_empty() -> bool:
        return not old.sessions

    await eventually(is_empty, "the end of the last connection")
    old.refuse_tcp()
    world.api.put(*WEB.slices(one(stays), one(new)))
    await until_served(proxy, WEB, (stays, new))
    await old.listen_tcp()


async def until_answered_by(load: Load, *pods: Witness) -> None:
    """Wait until these and no others answer."""

    async def are_it() -> bool:
        names = await load.answered_since(monotonic(), 20)
        return {words.split()[0] for words in names if words} == {pod.name for pod in pods}

    await eventually(are_it, f"answers from {[pod.name for pod in pods]}")


async def forgets(world: World, ip: str) -> bool:
    """Whether nothing in the kernel names an address."""
    return ip not in world.kernel_state(world.nodes[0])


async def test_an_api_server_that_is_away_changes_nothing_until_it_is_back(
    one_node: World, proxy: ProxyProcess
) -> None:
    one_node.put(OTHER, one_node.pods[:1])
    await until_served(proxy, OTHER, one_node.pods[:1])
    await until_connected(proxy, RESOURCES)
    async with Load(one_node.client, WEB.addresses()[0]) as load:
        one_node.api.stop()
        await until_connected(proxy, 0)
        assert await proxy.metric("uproxy_kubernetes_disconnected_seconds") > 0
        assert await proxy.health() == 200
        assert "apiServerAwaySince" in await proxy.health_body()
        await until_logged(proxy, "Connection refused")
        await load.answered_since(monotonic(), 50)
        assert await ask(one_node.client, OTHER.addresses()[0])
        end_of_other_and_a_new_database(one_node)
        one_node.return_api_server()
        await until_connected(proxy, RESOURCES)
        await until_served(proxy, OTHER, ())
        await until_served(proxy, LATE, one_node.pods[1:])
        assert load.errors_since() == []
    await eventually(lambda: forgets(one_node, "172.30.0.2"), "the end of the rules of what is gone")
    assert "apiServerAwaySince" not in await proxy.health_body()
    assert await proxy.metric("uproxy_kubernetes_disconnected_seconds") == 0
    assert [line.split(maxsplit=2)[2] for line in proxy.log.splitlines() if "API server" in line] == [
        f"API server: {one_node.client.ip4}:{one_node.api.server.port}: Connection refused; "
        "going on with what is known",
        "API server: answers again",
    ]


def end_of_other_and_a_new_database(world: World) -> None:
    """What nobody was told: a Service ended, one came, and all have other versions."""
    for thing in (OTHER.service(), *OTHER.slices()):
        world.api.delete(thing)
    world.api.call(world.api.server.storage.restart, 50_000)
    world.put(LATE, world.pods[1:])


@redirected
async def test_a_rotated_token_is_taken_up(one_node: World, proxy: ProxyProcess) -> None:
    one_node.api.server.tokens = {"second-token"}
    replace(one_node.folder / "token", "second-token\n")
    one_node.api.call(one_node.api.server.drop_all)
    one_node.put(WEB, one_node.pods[:1])
    await until_served(proxy, WEB, one_node.pods[:1])
    assert await proxy.metric("uproxy_kubernetes_denied_total") == 0


async def test_a_new_process_takes_over_with_what_came_while_it_waited(
    one_node: World, proxy: ProxyProcess
) -> None:
    pod1, pod2, pod3 = one_node.pods
    async with (
        one_node.proxy(one_node.nodes[0], "--take-over") as later,
        Load(one_node.client, WEB.addresses()[0]) as load,
    ):
        await until_logged(later, "serving as soon as the other uproxy is told to stop")
        one_node.put(WEB, (pod1, pod2), **NODE_PORTS)
        one_node.put(LATE, (pod3,))
        await until_served(proxy, WEB, (pod1, pod2))
        proxy.terminate()
        await until_logged(later, "ready: ")
        await until_served(later, WEB, (pod1, pod2))
        await until_served(later, LATE, (pod3,))
        await until_answered_by(load, pod1, pod2)
        assert await proxy.status() == 0
        assert (await ask(one_node.client, LATE.addresses()[0])).startswith("pod3 ")
        assert load.errors_since() == []
        assert await later.health() == 200


async def test_the_same_again_is_no_command(one_node: World, proxy: ProxyProcess) -> None:
    """A new list, and then another set of endpoints: neither is the kernel's business."""
    (node,) = one_node.nodes
    before = one_node.kernel_state(node), nft_generation(node.host)
    changes = await proxy.metric("kubeproxy_sync_proxy_rules_endpoint_changes_total")
    async with Load(one_node.client, WEB.addresses()[0]) as load:
        forget_places(one_node)

        async def have_listed() -> bool:
            return await proxy.metric("uproxy_kubernetes_lists_total") == 2 * RESOURCES

        await eventually(have_listed, "new lists")
        assert await proxy.metric("kubeproxy_sync_proxy_rules_endpoint_changes_total") == changes
        one_node.put(WEB, one_node.pods[:1], **NODE_PORTS)
        await until_served(proxy, WEB, one_node.pods[:1])
        assert load.errors_since() == []
    assert await proxy.metric("kubeproxy_sync_proxy_rules_endpoint_changes_total") == changes + 2
    assert (one_node.kernel_state(node), nft_generation(node.host)) == before


def forget_places(world: World) -> None:
    """Every watch is cut, and cannot go on where it was: 410."""
    api = world.api
    api.put({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "somebody"}, "spec": {}})
    api.call(api.server.storage.compact)
    api.call(api.server.drop_all)


async def test_the_end_of_every_object_leaves_nothing(one_node: World) -> None:
    (node,) = one_node.nodes
    async with one_node.proxy(node) as proxy:
        await until_connected(proxy, RESOURCES)
        before = traces(one_node)
        sockets = proxy.open_sockets()
        things = objects(one_node)
        for thing in things:
            await deliver(one_node, proxy, thing)
        for web in (WEB, LATE):
            for address in web.addresses():
                assert await ask(one_node.client, address)
            for address in web.addresses("UDP"):
                with datagrams(one_node.client, address) as sock:
                    assert await answer(sock, WHO)
        assert traces(one_node) != before
        for thing in things:
            one_node.api.delete(thing)
        await until_nothing_is_served(proxy)
        assert traces(one_node) == before

        async def are_closed() -> bool:
            return proxy.open_sockets() == sockets

        await eventually(are_closed, "the end of every socket")


async def test_a_proxy_that_ends_while_the_api_server_is_away_leaves_nothing(one_node: World) -> None:
    (node,) = one_node.nodes
    before = one_node.kernel_state(node)
    one_node.api.put(*objects(one_node))
    async with one_node.proxy(node) as proxy:
        assert one_node.kernel_state(node) != before
        one_node.api.stop()
        await until_logged(proxy, "Connection refused")
        proxy.terminate()
        assert await proxy.status() == 0
        assert "Traceback" not in proxy.log
    one_node.return_api_server()
    assert one_node.kernel_state(node) == before


async def test_a_proxy_that_comes_back_while_the_api_server_is_away_waits_for_it(one_node: World) -> None:
    """What was killed left rules and routes; they go when it is known which are wanted."""
    (node,) = one_node.nodes
    one_node.api.put(*objects(one_node))
    async with one_node.proxy(node) as killed:
        assert f" {OTHER.ips[0]} " in one_node.kernel_state(node)
        killed.kill9()
    for thing in (OTHER.service(), *OTHER.slices()):
        one_node.api.delete(thing)
    one_node.api.stop()
    async with one_node.proxy(node, wait_for=503) as proxy:
        await until_logged(proxy, "Connection refused")
        one_node.return_api_server()
        await until_served(proxy, WEB, one_node.pods)
        await until_healthy(proxy)
        for address in WEB.addresses():
            assert await ask(one_node.client, address)
        assert f" {OTHER.ips[0]} " not in one_node.kernel_state(node)


def objects(world: World) -> list[Manifest]:
    """Services that between them need something of every kind."""
    one = world.endpoint
    local = {"externalTrafficPolicy": "Local", "healthCheckNodePort": 31999}
    ranges = {"loadBalancerSourceRanges": ["10.0.0.0/8"]}
    late = LATE.service(type="LoadBalancer", **local, **ranges)
    late["status"] = {"loadBalancer": {"ingress": [{"ip": "198.51.100.3"}]}}
    return [
        *(WEB.service(**NODE_PORTS), *WEB.slices(*map(one, world.pods))),
        *(OTHER.service(internalTrafficPolicy="Local"), *OTHER.slices()),
        *(late, *LATE.slices(one(world.pods[0]))),
    ]


async def until_nothing_is_served(proxy: ProxyProcess) -> None:
    async def is_nothing() -> bool:
        return await proxy.services() == []

    await eventually(is_nothing, "no Service any more")


def traces(world: World) -> tuple[str, list[str]]:
    """Rules, routes, and addresses that are listened on, of the node."""
    (node,) = world.nodes
    listening = node.host.run("ss", "-Hlntu").stdout.splitlines()
    return world.kernel_state(node), sorted(line.split()[4] for line in listening)


async def test_every_order_of_delivery_ends_in_the_same_state(one_node: World) -> None:
    things = objects(one_node)
    services = [thing for thing in things if thing["kind"] == "Service"]
    slices = [thing for thing in things if thing["kind"] != "Service"]
    orders = (services + slices, slices + services, [*slices[::2], *services, *slices[1::2]])
    async with one_node.proxy(one_node.nodes[0]) as proxy:
        await until_connected(proxy, RESOURCES)
        found = []
        for order in orders:
            for thing in order:
                await deliver(one_node, proxy, thing)
            found.append((traces(one_node), await comparable_services(proxy)))
            for thing in order:
                one_node.api.delete(thing)
            await until_nothing_is_served(proxy)
    assert found[1] == found[0]
    assert found[2] == found[0]
    assert all(f"{pod.host.ip4}:8080" in found[0][1] for pod in one_node.pods)


async def deliver(world: World, proxy: ProxyProcess, thing: Manifest) -> None:
    """Put an object, and wait until it is programmed."""
    heard = await proxy.metric("uproxy_kubernetes_events_total")
    world.api.put(thing)

    async def is_programmed() -> bool:
        pending = "kubeproxy_sync_proxy_rules_{}_changes_pending"
        waiting = [await proxy.metric(pending.format(kind)) for kind in ("service", "endpoint")]
        return await proxy.metric("uproxy_kubernetes_events_total") == heard + 1 and not any(waiting)

    await eventually(is_programmed, f"{thing['kind']} {thing['metadata']['name']}")


async def comparable_services(proxy: ProxyProcess) -> str:
    """The rows of /services, whatever their order."""
    rows = await proxy.services()
    for row in rows:
        row["endpoints"].sort(key=lambda one: one["address"])
        row["addresses"].sort()
    return json.dumps(sorted(rows, key=lambda row: (row["name"], row["port"])))


@redirected
async def test_a_node_that_leaves_is_said_to_and_serves_on(one_node: World, proxy: ProxyProcess) -> None:
    (node,) = one_node.nodes
    autoscaler = [{"key": "ToBeDeletedByClusterAutoscaler", "value": "1", "effect": "NoSchedule"}]
    steps = (
        (lambda: one_node.api.put(node.manifest(taints=autoscaler)), 503),
        (lambda: one_node.api.put(node.manifest()), 200),
        (lambda: one_node.api.delete(node.manifest()), 503),
    )
    for change, status in steps:
        change()

        async def is_said(status: int = status) -> bool:
            return await proxy.health() == status

        await eventually(is_said, f"health {status}")
        assert await proxy.livez() == 200
        assert await ask(one_node.client, WEB.addresses()[0])
