"""A proxy that has carried very many connections, or holds very many, is as good as new."""

import asyncio
import os
import resource
import socket
import struct
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.loop.e2e.test_rootless import SHOP, proxy
from tests.proxy_process import ProxyProcess, eventually
from uproxy.dataplane.relay.native_relay import engine_or_reason

LONG = bool(os.environ.get("UPROXY_TESTS_LONG"))
CONNECTIONS = 100_000 if LONG else 2_000
AT_A_TIME = 32
RSS_GROWTH_BYTES = 2 * 2**20
"""What allocators and tables may still settle by, whatever the number of connections."""

IDLE = 9_000 if LONG else 300
HELD_S = 60 if LONG else 0
IDLE_BYTES = {"python": 3 * 1024, "native": 512}
OWN_DESCRIPTORS = 1_000
AT_ONCE = struct.pack("ii", 1, 0)


class Echo(asyncio.Protocol):
    """A backend that says everything again."""

    def connection_made(self, transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


@pytest_asyncio.fixture
async def echo() -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0, backlog=1000)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest_asyncio.fixture(params=["python", "native"])
async def running(request, prefix, tmp_path: Path, echo: int):
    if request.param == "native" and (reason := engine_or_reason()):
        pytest.skip(f"no native relay: {reason}")
    flags = ("-f", SHOP, "--endpoint", f"default/frontend=127.0.0.1:{echo}", "--relay", request.param)
    async with proxy(prefix, tmp_path, *flags) as process:
        yield process


async def vip_of(running: ProxyProcess) -> tuple[str, int]:
    row = await running.row("frontend")
    ip, _, port = row["addresses"][0].rpartition(":")
    return ip, int(port)


def rss_bytes(running: ProxyProcess) -> int:
    resident_pages = int(Path(f"/proc/{running.pid}/statm").read_text().split()[1])
    return resident_pages * resource.getpagesize()


def open_descriptors(running: ProxyProcess) -> int:
    return running.open_sockets() + running.open_pipes()


async def call(vip: tuple[str, int], host: int) -> socket.socket:
    """A client, from one of many addresses so that local ports do not run out."""
    client = socket.socket()
    client.setblocking(False)
    client.bind((f"127.98.{host // 250}.{host % 250 + 1}", 0))
    await asyncio.get_running_loop().sock_connect(client, vip)
    return client


async def ask(client: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(client, b"are you there?")
    assert await asyncio.wait_for(loop.sock_recv(client, 100), 20) == b"are you there?"


async def converse(vip: tuple[str, int], host: int, count: int) -> None:
    """One after the other; every fourth is reset."""
    for number in range(count):
        client = await call(vip, host)
        await ask(client)
        if number % 4 == 0:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        client.close()


async def converse_all(running: ProxyProcess, count: int) -> None:
    vip = await vip_of(running)
    await asyncio.gather(*(converse(vip, host, count // AT_A_TIME) for host in range(AT_A_TIME)))

    async def is_quiet() -> bool:
        return (await running.row("frontend"))["connections"]["active"] == 0

    await eventually(is_quiet, "the end of all connections")


@pytest.mark.timeout(1200)
async def test_many_connections_leave_neither_memory_nor_descriptors(running: ProxyProcess) -> None:
    await converse_all(running, CONNECTIONS // 10)
    before = rss_bytes(running), open_descriptors(running)
    await converse_all(running, CONNECTIONS)
    after = rss_bytes(running), open_descriptors(running)
    sys.stderr.write(
        f"{CONNECTIONS} connections: RSS {before[0]} -> {after[0]}, descriptors {before[1]} -> {after[1]}\n"
    )
    assert after[1] <= before[1]
    assert after[0] <= before[0] + RSS_GROWTH_BYTES


@pytest.mark.timeout(1200)
async def test_idle_connections_cost_little_and_are_all_alive_when_they_are_used(
    request, running: ProxyProcess
) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    idle = min(IDLE, (hard - OWN_DESCRIPTORS) // 2)
    vip = await vip_of(running)
    await converse_all(running, 10 * AT_A_TIME)
    before = rss_bytes(running)
    clients = [await call(vip, number % AT_A_TIME) for number in range(idle)]
    for client in clients:
        await ask(client)
    each = (rss_bytes(running) - before) / idle
    sys.stderr.write(f"{idle} idle connections: {each:.0f} bytes each\n")
    await asyncio.sleep(HELD_S)
    for client in clients:
        await ask(client)
    assert (await running.row("frontend"))["connections"]["active"] == idle
    for client in clients:
        client.close()
    if idle == 9_000:  # with few, pages are too coarse to tell
        assert each <= IDLE_BYTES["native" if "native" in request.node.name else "python"]
