"""Any system call may fail, and costs one connection at most: exact, refused or reset; never an end that
lies, never a hang, and the process goes on as if nothing had been."""

import asyncio
import os
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from tests.exchange import Script, Server, random_script, run_client
from tests.faulty_calls import FaultyCalls, can_build
from tests.loop.conftest import free_port
from tests.loop.e2e.test_rootless import proxy
from tests.manifests import endpoint_slice, service, text_of
from tests.proxy_process import ProxyProcess, eventually
from uproxy.dataplane.relay.native_relay import engine_or_reason

LONG = bool(os.environ.get("UPROXY_TESTS_LONG"))
ROUNDS = 40 if LONG else 2
CONNECTIONS = 300 if LONG else 150
AT_A_TIME = 25
LARGEST_BYTES = 1_500_000
PER_MILLION = (5_000, 100_000, 1_000, 20_000)
PATIENCE_S = 30.0
IP = "127.96.7.1"


class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, client) -> None:
        self.transport.sendto(data, client)


NOTHING_YET = "IncompleteReadError('0 bytes read on a total of 13 expected bytes')"
"""What a server says of a dial that was given up."""


class Backends:
    """Two servers of scripts for each way, and one that echoes datagrams."""

    def __init__(self) -> None:
        self.server = Server()
        self.open = 0
        self.greets, self.answers = free_port(IP), free_port(IP)
        self.echoes = free_port(IP, socket.SOCK_DGRAM)
        """Ports of the Services."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[tuple[list[int], list[int], int]]:
        loop = asyncio.get_running_loop()
        greeting = [await asyncio.start_server(self._greet, "127.0.0.1", 0) for _ in range(2)]
        answering = [await asyncio.start_server(self._handle, "127.0.0.1", 0) for _ in range(2)]
        echo, _ = await loop.create_datagram_endpoint(Echo, ("127.0.0.1", 0))
        ports = [[one.sockets[0].getsockname()[1] for one in servers] for servers in (greeting, answering)]
        yield ports[0], ports[1], echo.get_extra_info("sockname")[1]
        echo.close()
        for one in (*greeting, *answering):
            one.close()

    async def _greet(self, reader, writer) -> None:
        await self._count(self.server.greet(reader, writer))

    async def _handle(self, reader, writer) -> None:
        await self._count(self.server.handle(reader, writer))

    async def _count(self, work) -> None:
        self.open += 1
        try:
            await work
        finally:
            self.open -= 1

    def lies(self) -> list[str]:
        """What no peer may ever see."""
        return [one for one in self.server.failures if not one.startswith(RESETS) and one != NOTHING_YET]


RESETS = ("ConnectionResetError", "BrokenPipeError", "OSError(107")
"""The last is ENOTCONN, as shutdown(2) says it."""


def manifest(backends: Backends, greeting: list[int], answering: list[int], echo: int) -> str:
    objects = []
    for name, port, targets, protocol in (
        ("greets", backends.greets, greeting, "TCP"),
        ("answers", backends.answers, answering, "TCP"),
        ("echoes", backends.echoes, [echo], "UDP"),
    ):
        ports = [{"name": "p", "port": port, "protocol": protocol}]
        objects.append(service(name, ports, clusterIP=IP, clusterIPs=[IP]))
        for target in targets:
            slice_ = endpoint_slice(name, ["127.0.0.1"], [{**ports[0], "port": target}], "IPv4")
            slice_["metadata"]["name"] += str(target)
            objects.append(slice_)
    return text_of(objects)


@pytest_asyncio.fixture
async def faulty(tmp_path: Path) -> FaultyCalls:
    if not can_build():
        pytest.skip("gcc is not installed (apt-get install gcc)")
    made = FaultyCalls(tmp_path)
    await made.build()
    return made


@pytest_asyncio.fixture
async def backends() -> Backends:
    return Backends()


@pytest_asyncio.fixture(params=["python", "native"])
async def running(request, prefix, tmp_path: Path, faulty: FaultyCalls, backends: Backends):
    if request.param == "native" and (reason := engine_or_reason()):
        pytest.skip(f"no native relay: {reason}")
    async with backends.running() as ports:
        path = tmp_path / "services.yaml"
        path.write_text(manifest(backends, *ports))
        flags = ("-f", str(path), "--capture", "bind", "--relay", request.param, "--connect-timeout", "1s")
        async with proxy((*prefix, *faulty.prefix), tmp_path, *flags) as process:
            yield process


async def converse(backends: Backends, seed: int, server_first: bool | None = None) -> str:
    """One connection by a script: what became of it."""
    script = random_script(seed, LARGEST_BYTES)
    if server_first is not None:
        script = Script(seed, 1000, 1000, script.ending, server_first=server_first)
    try:
        async with asyncio.timeout(PATIENCE_S):
            port = backends.greets if script.server_first else backends.answers
            reader, writer = await asyncio.open_connection(IP, port)
            await run_client(reader, writer, script)
    except TimeoutError:
        return f"hangs: {script}"
    except OSError:
        return "reset"
    except (AssertionError, asyncio.IncompleteReadError) as error:
        return f"a lie: {error!r}, {script}"
    return "exact"


async def converse_all(backends: Backends, seed: int, count: int) -> Counter[str]:
    gate = asyncio.Semaphore(AT_A_TIME)

    async def one(number: int) -> str:
        async with gate:
            return await converse(backends, number)

    return Counter(await asyncio.gather(*(one(seed * count + number) for number in range(count))))


async def answered(backends: Backends, seed: int) -> bool:
    """Whether a datagram comes back."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.connect((IP, backends.echoes))
        question = b"question %d" % seed
        client.send(question)
        try:
            async with asyncio.timeout(0.5):
                return await loop.sock_recv(client, 100) == question
        except (TimeoutError, ConnectionRefusedError):
            return False


@pytest.mark.timeout(60 * 60 if LONG else 60)
async def test_whatever_fails_no_connection_is_cut_in_silence(
    running: ProxyProcess, faulty: FaultyCalls, backends: Backends
) -> None:
    seen: Counter[str] = Counter()
    for seed in range(ROUNDS):
        faulty.begin(seed, PER_MILLION[seed % len(PER_MILLION)])
        datagrams = asyncio.gather(*(answered(backends, number) for number in range(20)))
        seen += await converse_all(backends, seed, CONNECTIONS)
        await datagrams
        faulty.end()
        assert seen.keys() <= {"exact", "reset"}, seen
        await eventually(lambda: is_so(not backends.open), "servers are told of every end")
        assert backends.lies() == []
        for server_first in (True, False):
            assert await converse(backends, seed, server_first) == "exact"
        await eventually(partial(answered, backends, seed), "a datagram is answered")
    sys.stderr.write(f"{dict(seen)}; failed: {faulty.failed()}\n")
    assert seen["exact"]
    assert seen["reset"]
    await check_what_is_left(running)


async def is_so(value: object) -> object:
    return value


async def check_what_is_left(running: ProxyProcess) -> None:
    async def is_quiet() -> bool:
        rows = [await running.row(name) for name in ("greets", "answers")]
        return all(row["connections"]["active"] == 0 for row in rows)

    await eventually(is_quiet, "the end of all connections")
    begun = await running.metric("uproxy_connections_total")
    assert begun == await running.metric("uproxy_connections_closed_total"), "each has one reason"
    assert "Traceback" not in running.log
    running.terminate()
    assert await running.status() == 0
