"""Thousands of connections of every shape: every byte arrives, and nothing stays behind."""

import asyncio
import os
import random
import socket

import pytest
import pytest_asyncio

from tests.exchange import Ending, Script, Server, random_script, run_client
from tests.manifests import endpoint_slice, service
from tests.netns.e2e.stage import Stage, way
from tests.proxy_process import PATIENCE_S, connected, eventually
from uproxy.kit.lab import Host

VIP = "172.30.0.1"
QUESTION_PORT, GREETING_PORT = 8080, 8025
PORTS = (
    {"name": "question-first", "port": QUESTION_PORT},
    {"name": "server-first", "port": GREETING_PORT},
)
LARGEST = 10 * 1024 * 1024
AT_ONCE = 64
MANY = 2500
SOME, FEW = (MANY, MANY) if os.environ.get("UPROXY_TESTS_LONG") else (500, 100)
IDLE_PIPES = 64
"""Ends of pipes that the relay may keep for later."""
LARGE_ONES = [
    Script(10_000_001, LARGEST, LARGEST, Ending.TOGETHER),
    Script(10_000_002, LARGEST, LARGEST, Ending.TOGETHER, slow_client=True, slow_server=True),
    Script(10_000_003, LARGEST, LARGEST, Ending.CLIENT),
    Script(10_000_004, LARGEST, LARGEST, Ending.SERVER, server_first=True),
]


def scripts(count: int) -> list[Script]:
    """Sizes are spread evenly over the magnitudes; some connections have the largest both ways."""
    several = [random_script(seed, LARGEST) for seed in range(count)]
    several[: len(LARGE_ONES)] = LARGE_ONES
    random.Random(count).shuffle(several)
    return several


@pytest_asyncio.fixture
async def server(stage: Stage) -> Server:
    """One server for all the pods, each with both ports."""
    server = Server()
    listeners = []
    for pod in stage.pods:
        pod.kill()  # its port is wanted here
        listeners.append(await asyncio.start_server(server.handle, sock=bound(pod.host, QUESTION_PORT)))
        listeners.append(await asyncio.start_server(server.greet, sock=bound(pod.host, GREETING_PORT)))
    yield server
    for listener in listeners:
        listener.close()


def bound(host: Host, port: int) -> socket.socket:
    sock = host.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setblocking(False)
    sock.bind((host.ip4, port))
    return sock


async def follow(host: Host, script: Script) -> None:
    port = GREETING_PORT if script.server_first else QUESTION_PORT
    async with connected(host, (VIP, port)) as (reader, writer):
        await run_client(reader, writer, script)


async def follow_all(host: Host, several: list[Script]) -> list[str]:
    """Follow all scripts, `AT_ONCE` at a time; what went wrong, with the script it went wrong in."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(script: Script) -> str | None:
        async with gate:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await follow(host, script)
            except (AssertionError, OSError, EOFError) as error:
                return f"{script}: {error!r}"
        return None

    return [wrong for wrong in await asyncio.gather(*map(one, several)) if wrong is not None]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("way", "count"),
    [
        (way("redirect-nft", "native-2"), MANY),
        (way("redirect-nft", "native-1"), SOME),
        (way("redirect-iptables", "python"), SOME),
        (way("bind", "python"), FEW),
        (way("bind", "native-2"), FEW),
    ],
    indirect=["way"],
    ids=str,
)
async def test_connections_of_every_shape_are_exact_and_leave_nothing(
    stage: Stage, server: Server, count: int
) -> None:
    pods = [pod.host.ip4 for pod in stage.pods]
    objects = [service("web", PORTS, clusterIP=VIP), endpoint_slice("web", pods, PORTS, "IPv4")]
    async with stage.proxy(objects) as proxy:
        before, pipes_before = proxy.open_sockets(), proxy.open_pipes()  # standard input may be one
        assert await follow_all(stage.client, scripts(count)) == []

        async def are_served() -> bool:
            return server.served + len(server.failures) == count

        await eventually(are_served, f"{count} connections at the servers")
        assert server.failures == []

        async def are_closed() -> bool:
            return await proxy.metric("uproxy_connections_active") == 0

        await eventually(are_closed, "the end of every connection")
        assert await proxy.metric("uproxy_connections_closed_total") == count
        for reason in ("client-reset", "backend-reset", "dial-failed"):
            assert await proxy.metric("uproxy_connections_closed_total", reason=reason) == 0

        async def are_given_back() -> bool:
            return proxy.open_sockets() <= before and proxy.open_pipes() <= pipes_before + IDLE_PIPES

        await eventually(are_given_back, "every descriptor")
