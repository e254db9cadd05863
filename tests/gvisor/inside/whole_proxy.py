"""`uproxy`, as a newcomer uses it, where the kernel is gVisor: which capture, and that it serves exactly."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.exchange import Ending, Script, Server, run_client
from tests.proxy_process import UPROXY, ProxyProcess, ThisMachine, connected
from uproxy.kit.commands import run
from uproxy.kit.programs import execute

VIPS = ("10.96.0.10", "fd00:96::10")
PATIENCE_S = 90.0
FOREIGN = "10.96.0.77"
POWERLESS = ("setpriv", "--inh-caps=-all", "--bounding-set=-all")
SCRIPTS = [
    Script(1, 100, 100, Ending.CLIENT),
    Script(2, 3_000_000, 3_000_000, Ending.TOGETHER, slow_client=True),
    Script(3, 3_000_000, 10, Ending.SERVER),
]


@pytest_asyncio.fixture
async def web() -> AsyncIterator[Server]:
    """A server on loopback that follows scripts, and a datagram that comes back."""
    server = Server()
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    yield server
    listener.close()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """gVisor follows every system call with ptrace: a start takes seconds."""
    monkeypatch.setattr("tests.proxy_process.PATIENCE_S", PATIENCE_S)


@pytest_asyncio.fixture
async def lo() -> str:
    """What is on `lo` before a test, and after it: an address of somebody else, too."""
    if FOREIGN not in await addresses():
        await execute("ip", "address", "add", f"{FOREIGN}/32", "dev", "lo")
    return await addresses()


async def addresses() -> str:
    return "\n".join(sorted((await execute("ip", "-o", "address")).splitlines()))


async def uproxy(*arguments: str) -> tuple[int, str]:
    done = await run(*UPROXY, *arguments)
    return done.status, done.stdout + done.stderr


def manifest(folder: Path, port: int, *vips: str, protocol: str = "TCP", name: str = "web") -> str:
    families = ["IPv6" if ":" in vip else "IPv4" for vip in vips]
    service = {"ports": [{"port": 80, "protocol": protocol}]}
    service |= {"clusterIP": vips[0], "clusterIPs": vips, "ipFamilies": families} if vips else {}
    objects = [{"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": service}]
    objects.append(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": f"{name}-1", "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "ports": [{"port": port, "protocol": protocol}],
            "endpoints": [{"addresses": ["127.0.0.1"]}],
        }
    )
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    return str(path)


async def follow(vip: str, script: Script) -> None:
    async with connected(ThisMachine(), (vip, 80)) as (reader, writer):
        await asyncio.wait_for(run_client(reader, writer, script), PATIENCE_S)


@pytest.mark.parametrize("relay", ["native", "python"])
async def test_every_byte_arrives_at_a_cluster_ip_and_nothing_is_left(relay, web, lo, tmp_path):
    file = manifest(tmp_path, web.port, VIPS[0])
    async with ProxyProcess(ThisMachine(), "-f", file, "--relay", relay, log=tmp_path / "log") as running:
        assert "capture bind by lo-addresses" in running.log
        assert VIPS[0] in await addresses()
        assert (await running.row("web"))["status"] == "ok"
        for script in SCRIPTS:
            await follow(VIPS[0], script)
        assert web.failures == []
        assert await running.metric("uproxy_connections_total", service="web") == len(SCRIPTS)
        running.terminate()
        assert await running.status() == 0
    assert await addresses() == lo


def exchange(vip: str, server: socket.socket) -> None:
    """Datagrams to a VIP, each answered by the server behind it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(PATIENCE_S)
        client.connect((vip, 80))
        for number in range(20):
            client.send(b"%d" % number)
            said, whom = server.recvfrom(100)
            server.sendto(said, whom)
            assert client.recv(100) == b"%d" % number


async def test_both_families_and_datagrams(lo, tmp_path):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.settimeout(PATIENCE_S)
        server.bind(("127.0.0.1", 0))
        file = manifest(tmp_path, server.getsockname()[1], *VIPS, protocol="UDP")
        async with ProxyProcess(ThisMachine(), "-f", file, log=tmp_path / "log") as running:
            there = await addresses()
            assert all(vip in there for vip in VIPS)
            await asyncio.to_thread(exchange, VIPS[0], server)
            running.terminate()
            assert await running.status() == 0
    assert await addresses() == lo


async def test_after_kill_9_the_next_start_and_cleanup_know_what_is_ours(web, lo, tmp_path):
    first, second = (
        manifest(tmp_path, web.port, *VIPS),
        manifest(tmp_path, web.port, "10.96.0.11", name="other"),
    )
    async with ProxyProcess(ThisMachine(), "-f", first, log=tmp_path / "log") as running:
        running.kill9()
    assert VIPS[0] in await addresses()
    async with ProxyProcess(ThisMachine(), "-f", second, log=tmp_path / "log") as running:
        await running.row("other")
        running.kill9()
    assert VIPS[0] not in await addresses()
    assert await uproxy("cleanup") == (0, "removed address 10.96.0.11 on lo\n")
    assert await uproxy("cleanup") == (0, "nothing to remove\n")
    assert await addresses() == lo


async def test_an_ordinary_user_has_loopback_services(web, lo, tmp_path):
    file = manifest(tmp_path, web.port)
    async with ProxyProcess(ThisMachine(), "-f", file, log=tmp_path / "log", prefix=POWERLESS) as running:
        assert "capture bind by loopback" in running.log
        (address,) = (await running.row("web"))["addresses"]
        ip, _, port = address.rpartition(":")
        async with connected(ThisMachine(), (ip, int(port))) as (reader, writer):
            await asyncio.wait_for(run_client(reader, writer, SCRIPTS[0]), PATIENCE_S)
        running.terminate()
        assert await running.status() == 0
    assert await addresses() == lo


async def test_check_says_what_there_is(tmp_path):
    status, said = await uproxy("check", "-f", manifest(tmp_path, 9001, VIPS[0]))
    assert status == 0, said
    assert "local routes: not in this kernel" in said
    assert "capture: bind by lo-addresses" in said
    assert "manifests: 1 Service ports, no mistakes" in said


@pytest.mark.parametrize("capture", ["redirect", "tproxy"])
async def test_a_capture_that_needs_netfilter_is_one_clear_line(capture, tmp_path):
    status, said = await uproxy("run", "-f", manifest(tmp_path, 9001), "--capture", capture)
    assert status not in (0, 3), said
    assert f"--capture {capture} is not possible here" in said
    assert "Traceback" not in said


async def test_the_demo_ends_well():
    status, said = await uproxy("demo", "--once")
    assert status == 0, said
    assert "no client noticed" in said
