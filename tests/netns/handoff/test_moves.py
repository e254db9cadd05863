"""Services that move to the kernel and back while they are in use."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from ipaddress import ip_address
from itertools import chain
from time import monotonic
from typing import Any

import pytest

from tests.manifests import Manifest
from tests.netns.e2e.callers import (
    Load,
    answer,
    ask,
    ask_often,
    datagrams,
    echoes,
    is_refused,
    name_from,
    rest_of,
)
from tests.netns.e2e.stage import DNS, WEB, Stage, node_ports, way, web
from tests.netns.e2e.test_succession import is_waiting
from tests.proxy_process import Address, ProxyProcess, connected, eventually
from uproxy.kit.lab import Host

CAPTURES = [
    way("redirect-nft", "native-2"),
    way("redirect-iptables", "native-2"),
    way("bind", "native-2"),
    way("redirect-nft", "python"),
]
BY_NFTABLES = [pytest.param("nftables", its, id=f"nftables-{its}") for its in CAPTURES]
BY_IPTABLES = [pytest.param("iptables", its, id=f"iptables-{its}") for its in CAPTURES[:3]]
by_each = pytest.mark.parametrize(("mechanism", "way"), BY_NFTABLES + BY_IPTABLES, indirect=["way"])
by_each_once = pytest.mark.parametrize(("mechanism", "way"), BY_NFTABLES + BY_IPTABLES[:1], indirect=["way"])
LEFT = {
    "nftables": "nftables table inet uproxy-handoff",
    "iptables": "iptables nat chain UPROXY_HANDOFF",
}
STREAMS = 200
MOVES = 20
LOST_AFTER_S = 1.0
PIECE = bytes(range(256)) * 16


def by(mechanism: str) -> tuple[str, str]:
    """The flag."""
    return "--handoff", mechanism


def handed(objects: list[Manifest], word: str) -> list[Manifest]:
    """The Service, which comes first, with the annotation."""
    objects[0]["metadata"].setdefault("annotations", {})["uproxy.dev/handoff"] = word
    return objects


async def until_path(proxy: ProxyProcess, path: str, name: str = "web") -> dict[str, Any]:
    row: dict[str, Any] = {}

    async def is_there() -> bool:
        row.update(await proxy.row(name))
        return row["path"] == path

    await eventually(is_there, f"{name} by {path}")
    return row


async def has_in_kernel(proxy: ProxyProcess, count: int) -> bool:
    """Whether so many connections are open there, by the look at them that comes every second."""
    return (await proxy.row("web"))["in_kernel"] == count


@asynccontextmanager
async def streaming(stage: Stage, count: int, at_once: int = STREAMS) -> AsyncIterator[list[float]]:
    """Connections that send and get back all the time; at the end each must have got every byte. Yields the
    longest pause of each between two answers, in seconds.

    No more than `at_once` are on their way at any moment, in turn: a slow machine has others to serve, too.
    """
    stop, pauses, turns = asyncio.Event(), [0.0] * count, asyncio.Semaphore(at_once)

    async def stream(number: int) -> None:
        async with connected(stage.callers[number % 2], WEB[number % 2]) as (reader, writer):
            await name_from(reader)
            while not stop.is_set():
                async with turns:
                    begun_s = monotonic()
                    assert await echoes(reader, writer, PIECE)
                    pauses[number] = max(pauses[number], monotonic() - begun_s)

    async with asyncio.TaskGroup() as tasks:
        for number in range(count):
            tasks.create_task(stream(number))
        yield pauses
        stop.set()


async def move_to_and_fro(
    stage: Stage, proxy: ProxyProcess, mechanism: str, at_once: int = STREAMS, calls: int = 20
) -> str:
    """MOVES moves under STREAMS, of which half have begun in userspace and half in the kernel, and under new
    connections from outside and from the node. Returns what is to be told of it."""
    half, pauses = STREAMS // 2, []
    async with AsyncExitStack() as stack:
        outside = await stack.enter_async_context(Load(stage.client, WEB[0]))
        inside = await stack.enter_async_context(Load(stage.node, WEB[1]))
        pauses.append(await stack.enter_async_context(streaming(stage, half, at_once // 2)))
        for number in range(MOVES):
            word, path = (("always", mechanism), ("never", "relay"))[number % 2]
            stage.write(handed(web(stage.pods), word))
            await until_path(proxy, path)
            for load in (outside, inside):
                await load.answered_since(monotonic(), calls)
            if number == 0:
                pauses.append(await stack.enter_async_context(streaming(stage, half, at_once // 2)))
    assert outside.errors_since() == inside.errors_since() == []
    relayed_ms, kernel_ms = (round(max(some) * 1000) for some in pauses)
    return (
        f"{MOVES} moves of {STREAMS} connections by {mechanism}, longest pause {relayed_ms} ms "
        f"of those that began in userspace, {kernel_ms} ms of the others"
    )


@pytest.mark.timeout(180)
@by_each_once
async def test_nothing_is_lost_while_a_service_moves_there_and_back(
    stage: Stage, mechanism: str, tell: Callable[[str], None]
) -> None:
    async with stage.proxy(handed(web(stage.pods), "never"), *by(mechanism)) as proxy:
        tell(await move_to_and_fro(stage, proxy, mechanism))


async def refuses(stage: Stage, vip: Address) -> bool:
    """Whether new connections are refused. Who meets a listener in its last moment is reset."""
    try:
        return await is_refused(stage.client, vip)
    except ConnectionResetError:
        return False


@pytest.mark.parametrize("family", [0, 1])
@by_each
async def test_round_robin_counts_and_changes_of_endpoints(stage: Stage, mechanism: str, family: int) -> None:
    vip = WEB[family]
    async with stage.proxy(handed(web(stage.pods), "always"), *by(mechanism)) as proxy:
        row = await until_path(proxy, mechanism)
        assert row["path_reason"] == "handoff: always"
        for caller in stage.callers:
            counts = await ask_often(caller, vip, 150)
            assert sorted(counts.values()) == [50, 50, 50]

        async def is_counted() -> bool:
            row = await proxy.row("web")
            each = sorted(its["connections"]["total"] for its in row["endpoints"])[-3:]
            return (
                row["connections"]["total"] == 300
                and each == [100, 100, 100]
                and row["bytes"]["to_client"] > 0
            )

        async def nothing_is_counted() -> bool:
            table = stage.node.run("nft", "list", "table", "inet", "uproxy-handoff").stdout
            return "counter packets" not in table

        await eventually(is_counted, "300 connections of the kernel")
        async with connected(stage.client, vip) as (reader, writer):
            name = await name_from(reader)
            await eventually(lambda: has_in_kernel(proxy, 1), "this one")
            left = [pod for pod in stage.pods if pod.name != name]
            stage.write(handed(web(left), "always"))

            async def is_gone() -> bool:
                return name not in await ask_often(stage.client, vip, 10)

            await eventually(is_gone, f"no new connection to {name}")
            assert await echoes(reader, writer)  # the one that it has goes on
            assert sorted((await ask_often(stage.client, vip, 100)).values()) == [50, 50]
            stage.write(handed(web([]), "always"))
            await eventually(lambda: refuses(stage, vip), "refused")
            await until_path(proxy, "relay")
            assert await echoes(reader, writer)

        await eventually(lambda: has_in_kernel(proxy, 0), "all counted, and nothing open")
        if mechanism == "nftables":
            await eventually(nothing_is_counted, "no element left of what has ended")
        stage.write(handed(web(stage.pods), "always"))
        await until_path(proxy, mechanism)
        total = (await proxy.row("web"))["connections"]["total"]
        assert set(await ask_often(stage.client, vip, 30)) == {pod.name for pod in stage.pods}

        async def goes_on() -> bool:
            return (await proxy.row("web"))["connections"]["total"] == total + 30

        await eventually(goes_on, "counts that go on from where they were")


@by_each
async def test_datagrams_node_ports_and_affinity(stage: Stage, mechanism: str) -> None:
    spec = {"type": "NodePort", "ports": node_ports(30080, 30053)}
    async with stage.proxy(handed(web(stage.pods, **spec), "always"), *by(mechanism)) as proxy:
        await until_path(proxy, mechanism)
        node = stage.node.ip4, 30080
        assert sorted((await ask_often(stage.client, node, 90)).values()) == [30, 30, 30]
        for address in (*DNS, (stage.node.ip4, 30053), (stage.node.ip6, 30053)):
            seen = Counter()
            with ExitStack() as flows:  # all at once: a port that comes again would be the flow that it was
                for sock in [flows.enter_context(datagrams(stage.client, address)) for _ in range(9)]:
                    name = await answer(sock)
                    assert await answer(sock) == name
                    seen[name] += 1
            assert sorted(seen.values()) == [3, 3, 3], address
        sticky = {"sessionAffinity": "ClientIP", **spec}
        stage.write(handed(web(stage.pods, **sticky), "always"))

        async def sticks() -> bool:
            return len(await ask_often(stage.client, WEB[0], 12)) == 1

        await eventually(sticks, "affinity")
        chosen = await ask(stage.client, WEB[0])
        stage.write(handed(web([pod for pod in stage.pods if pod.name != chosen], **sticky), "always"))

        async def moved() -> bool:
            return await ask(stage.client, WEB[0]) != chosen

        await eventually(moved, "another pod")
        assert await sticks()


@contextmanager
def many_clients(host: Host) -> Iterator[list[str]]:
    """Addresses of its own network, that the host has meanwhile."""
    ips = [str(ip_address(ip) + number) for ip in (host.ip4, host.ip6) for number in range(50, 62)]
    for ip in ips:
        host.run("ip", "address", "add", ip, "dev", "eth0", *(["nodad"] if ":" in ip else []))
    yield ips
    for ip in ips:
        host.run("ip", "address", "del", ip, "dev", "eth0")


async def homes(host: Host, clients: list[str]) -> dict[str, str]:
    """The pod that each of these is led to."""
    found = {}
    for client in clients:
        async with connected(host, WEB[":" in client], client) as (reader, _):
            found[client] = await name_from(reader)
    return found


@pytest.mark.parametrize(("mechanism", "way"), BY_NFTABLES, indirect=["way"])
async def test_clients_under_affinity_stay_where_they_are(stage: Stage, mechanism: str) -> None:
    def sticky(word: str, timeout_s: int = 300) -> list[Manifest]:
        config = {"clientIP": {"timeoutSeconds": timeout_s}}
        return handed(web(stage.pods, sessionAffinity="ClientIP", sessionAffinityConfig=config), word)

    with many_clients(stage.client) as clients:
        early, late = clients[::2], clients[1::2]
        async with stage.proxy(sticky("auto"), *by(mechanism)) as proxy:
            assert (await proxy.row("web"))["path_reason"] == ""
            by_relay = await homes(stage.client, early)
            stage.write(sticky("always"))
            await until_path(proxy, mechanism)
            assert await homes(stage.client, early) == by_relay
            everybody = by_relay | await homes(stage.client, late)
            assert set(everybody.values()) == {pod.name for pod in stage.pods}
            stage.write(sticky("always", 200))
            await eventually(lambda: forget_after(stage, 200), "the shorter time")
            assert await homes(stage.client, clients) == everybody
            stage.write(sticky("never"))
            await until_path(proxy, "relay")
            assert await homes(stage.client, clients) == everybody


async def forget_after(stage: Stage, timeout_s: int) -> bool:
    """Whether that is how long the kernel remembers clients."""
    printed = stage.node.run("nft", "list", "sets", "inet").stdout
    return f"timeout {timeout_s // 60}m{timeout_s % 60}s" in printed


@pytest.mark.parametrize("word", ["always", "never"], ids=["in the kernel", "on the way back"])
@by_each
async def test_flows_of_an_endpoint_that_goes_move_at_once(stage: Stage, mechanism: str, word: str) -> None:
    async with stage.proxy(handed(web(stage.pods), "always"), *by(mechanism)) as proxy:
        await until_path(proxy, mechanism)
        for caller in stage.callers:
            stage.write(handed(web(stage.pods), "always"))
            await until_path(proxy, mechanism)
            with datagrams(caller, DNS[0]) as sock:
                before = (await answer(sock)).decode()
                stage.write(handed(web(stage.pods), word))
                await until_path(proxy, mechanism if word == "always" else "relay")
                assert (await answer(sock)).decode() == before
                left = [pod for pod in stage.pods if pod.name != before]
                stage.write(handed(web(left), word))

                async def has_moved(sock: socket.socket = sock, before: str = before) -> bool:
                    try:
                        async with asyncio.timeout(LOST_AFTER_S):
                            return (await answer(sock)).decode() != before
                    except TimeoutError:
                        return False  # its answer was under way when the flow was forgotten

                await eventually(has_moved, f"away from {before}")


@asynccontextmanager
async def in_kernel(
    stage: Stage, mechanism: str
) -> AsyncIterator[tuple[ProxyProcess, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A proxy that has handed its Service over, and a connection there."""
    async with stage.proxy(handed(web(stage.pods), "always"), *by(mechanism)) as proxy:
        await until_path(proxy, mechanism)
        async with connected(stage.client, WEB[0]) as (reader, writer):
            await name_from(reader)
            yield proxy, reader, writer


@by_each
async def test_killed_in_the_kernel_and_started_again(stage: Stage, mechanism: str, before: str) -> None:
    async with in_kernel(stage, mechanism) as (proxy, reader, writer):
        proxy.kill9()
        assert await echoes(reader, writer)
        assert await ask(stage.client, WEB[0])  # what the kernel carries goes on without the proxy
        async with stage.proxy(handed(web(stage.pods[:1]), "never"), *by(mechanism)) as again:
            await until_path(again, "relay")
            assert await echoes(reader, writer)
            assert set(await ask_often(stage.client, WEB[0], 12)) == {"pod1"}
            again.terminate()
            assert await again.status() == 0
        assert stage.kernel_state() == before


@by_each
async def test_killed_in_the_kernel_and_started_without_handoff(
    stage: Stage, mechanism: str, before: str
) -> None:
    async with in_kernel(stage, mechanism) as (proxy, reader, writer):
        proxy.kill9()
        async with stage.proxy(web(stage.pods[:1])) as again:
            assert set(await ask_often(stage.client, WEB[0], 12)) == {"pod1"}
            # Else these were the only chains of nat, without which nothing is translated.
            if stage.way.redirects:
                assert await echoes(reader, writer)
            assert "removed what an earlier run had handed over: " in again.log
            assert LEFT[mechanism] in again.log
            again.terminate()
            assert await again.status() == 0
        assert stage.kernel_state() == before


@by_each
async def test_another_process_goes_on_with_what_is_in_the_kernel(
    stage: Stage, mechanism: str, before: str
) -> None:
    carried = handed(web(stage.pods), "always")
    async with stage.proxy(carried, *by(mechanism)) as first:
        await until_path(first, mechanism)
        async with (
            Load(stage.client, WEB[0]) as outside,
            Load(stage.node, WEB[1]) as inside,
            connected(stage.client, WEB[0]) as (reader, writer),
            stage.proxy(carried, *by(mechanism), "--take-over") as later,
        ):
            await name_from(reader)
            await eventually(lambda: is_waiting(later), "the wait")
            first.terminate()
            assert await first.status() == 0
            assert await echoes(reader, writer)
            await until_path(later, mechanism)
            for load in (outside, inside):
                await load.answered_since(monotonic(), 50)
                assert load.errors_since() == []
            assert await echoes(reader, writer)
            writer.close()
            later.terminate()
            assert await later.status() == 0
    assert stage.kernel_state() == before


@by_each
async def test_cleanup_removes_what_a_killed_one_left(stage: Stage, mechanism: str, before: str) -> None:
    async with stage.proxy(handed(web(stage.pods), "always"), *by(mechanism)) as proxy:
        await until_path(proxy, mechanism)
        proxy.kill9()
    assert LEFT[mechanism] in stage.cleanup()
    assert "nothing to remove" in stage.cleanup()
    assert stage.kernel_state() == before


@by_each
async def test_sigterm_lets_connections_in_the_kernel_finish(
    stage: Stage, mechanism: str, before: str
) -> None:
    async with in_kernel(stage, mechanism) as (proxy, reader, writer):
        proxy.terminate()
        await eventually(lambda: is_refused(stage.client, WEB[0]), "refusals")
        assert await echoes(reader, writer)
        writer.write_eof()
        assert await rest_of(reader) == b""
        assert await proxy.status() == 0
    assert stage.kernel_state() == before


@by_each_once
async def test_a_load_moves_its_service_and_no_other(stage: Stage, mechanism: str) -> None:
    each = (web(stage.pods, f"other-{one}", clusterIPs=[f"172.30.1.{one}"]) for one in range(1, 100))
    others = list(chain.from_iterable(each))
    # Only nftables can take clients along; with others affinity would hold it.
    affinity = "ClientIP" if mechanism == "nftables" else "None"
    async with stage.proxy(web(stage.pods, sessionAffinity=affinity) + others, *by(mechanism)) as proxy:
        held = web(stage.pods)
        held[0]["metadata"]["annotations"] = {"uproxy.dev/balancing": "maglev"}
        assert (await proxy.row("other-1"))["path_reason"] == ""
        async with connected(stage.client, WEB[0]) as (reader, writer):
            await name_from(reader)
            busy = asyncio.ensure_future(_bulk(reader, writer))
            row = await until_path(proxy, mechanism)
            busy.cancel()
            await asyncio.gather(busy, return_exceptions=True)
        assert "MB/s" in row["path_reason"] or "busy" in row["path_reason"]
        rows = await proxy.services()
        assert [row["name"] for row in rows if row["path"] != "relay"] == ["web"]
        assert len({row["name"] for row in rows}) == 100
        stage.write(held + others)
        row = await until_path(proxy, "relay")
        assert row["path_reason"] == "held by balancing maglev"


async def _bulk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async def send() -> None:
        while True:
            writer.write(bytes(1 << 20))
            await writer.drain()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(send())
        while True:
            await reader.read(1 << 20)
