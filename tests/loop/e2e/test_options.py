"""Annotations in a manifest, each seen to act: `uproxy run` on loopback, with either relay."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.loop.dataplane.options.peers import Caller, Keeper, call
from tests.loop.dataplane.options.test_proxy_protocol import Told
from tests.loop.e2e.test_rootless import proxy
from tests.manifests import Manifest, endpoint_slice, replace_file, service, text_of
from tests.proxy_header import Header
from tests.proxy_process import ProxyProcess, eventually
from uproxy.dataplane.relay.native_relay import engine_or_reason


class Cleanups:
    """What is to be closed when a test is over."""

    def __init__(self) -> None:
        self._all: list[Any] = []

    def at_close(self, cleanup) -> None:
        self._all.append(cleanup)

    def close(self) -> None:
        for cleanup in self._all:
            cleanup()


class Scene:
    """A Service `web` in a file, servers behind it, and the proxy in front."""

    def __init__(self, folder: Path, flags: tuple[str, ...], without_privileges: tuple[str, ...]) -> None:
        self.cleanups = Cleanups()
        self.file = folder / "web.yaml"
        self._folder = folder
        self._flags = flags
        self._prefix = without_privileges

    def keepers(self, names: str) -> list[Keeper]:
        return [Keeper(self.cleanups, name) for name in names]

    def write(self, servers: list[Any], **annotations: str) -> None:
        """These endpoints, and these annotations: without their prefix, and with underscores."""
        web = service("web", [{"port": 8080}])
        web["metadata"]["annotations"] = {
            f"uproxy.dev/{name.replace('_', '-')}": value for name, value in annotations.items()
        }
        replace_file(self.file, text_of([web, *(slice_of(server) for server in servers)]))

    def proxy(self, servers: list[Any], **annotations: str) -> ProxyProcess:
        self.write(servers, **annotations)
        # Tests run side by side, and the Service's name alone would give it the same address in each.
        addresses = ("--service-cidr", f"127.{128 + os.getpid() % 100}.0.0/16")
        return proxy(self._prefix, self._folder, "-f", str(self.file), *self._flags, *addresses)


def slice_of(server: Any) -> Manifest:
    made = endpoint_slice("web", [str(server.backend.ip)], [{"port": server.backend.port}], "IPv4")
    made["metadata"]["name"] = f"web-{server.backend.port}"
    return made


@pytest.fixture(params=["python", "native"])
def scene(request, prefix, tmp_path: Path) -> Iterator[Scene]:
    if request.param == "native" and (reason := engine_or_reason()):
        pytest.skip(f"no native relay: {reason}")
    made = Scene(tmp_path, ("--relay", request.param), prefix)
    yield made
    made.cleanups.close()


async def vip_of(running: ProxyProcess) -> tuple[str, int]:
    ip, _, port = (await running.row("web"))["addresses"][0].rpartition(":")
    return ip, int(port)


async def asks_for(running: ProxyProcess, expected: dict[str, str]) -> None:
    async def told() -> bool:
        return (await running.row("web"))["options"] == expected

    await eventually(told, f"options {expected}")


async def closes(running: ProxyProcess, reason: str, count: int) -> None:
    async def counted() -> bool:
        return await running.metric("uproxy_connections_closed_total", reason=reason) == count

    await eventually(counted, f"{count} ended: {reason}")


async def waiting(running: ProxyProcess, wait: str, count: int) -> None:
    async def counted() -> bool:
        return (await running.row("web"))["waiting"].get(wait, 0) == count

    await eventually(counted, f"{count} wait for {wait}")


async def test_least_connections_and_a_change_to_maglev(scene: Scene) -> None:
    servers = scene.keepers("abc")
    async with scene.proxy(servers, balancing="least-connections", slow_start="10s") as running:
        vip = await vip_of(running)
        await asks_for(running, {"balancing": "least-connections", "slow-start": "10s"})
        callers = dict([await call(scene.cleanups, vip) for _ in range(3)])
        assert sorted(callers) == ["a", "b", "c"]
        callers["b"].close()
        servers[1].connections[0].close()

        async def noticed() -> bool:
            return (await running.row("web"))["connections"]["active"] == 2

        await eventually(noticed, "the end of one")
        assert (await call(scene.cleanups, vip))[0] == "b"
        scene.write(servers, balancing="maglev")
        await asks_for(running, {"balancing": "maglev"})
        assert len({(await call(scene.cleanups, vip))[0] for _ in range(6)}) == 1
        assert await running.metric("uproxy_endpoint_connections_total") == 10


@pytest.mark.parametrize("how", ["reset", "drain=100ms"])
async def test_connections_of_a_removed_endpoint(scene: Scene, how: str) -> None:
    servers = scene.keepers("ab")
    async with scene.proxy(servers, removed_endpoints=how) as running:
        vip = await vip_of(running)
        callers = dict([await call(scene.cleanups, vip) for _ in range(2)])
        scene.write(servers[1:], removed_endpoints=how)
        assert await callers["a"].was_reset()
        await closes(running, "endpoint-removed", 1)
        await callers["b"].write(b"still here")
        await asyncio.get_running_loop().sock_recv(servers[1].connections[0], 100)


async def test_a_limit_and_a_queue(scene: Scene) -> None:
    [server] = scene.keepers("a")
    limits = {"max_connections_per_endpoint": "1", "queue": "1"}
    async with scene.proxy([server], **limits) as running:
        vip = await vip_of(running)
        _, first = await call(scene.cleanups, vip)
        late = await Caller(scene.cleanups, vip).connect()
        await waiting(running, "place", 1)
        assert await running.metric("uproxy_connections_waiting", **{"for": "place"}) == 1
        with pytest.raises(ConnectionResetError):
            await (await Caller(scene.cleanups, vip).connect()).read()
        await closes(running, "queue-full", 1)
        first.close()
        server.connections[0].close()
        assert await late.read() == b"a"


async def test_held_until_there_is_an_endpoint(scene: Scene) -> None:
    async with scene.proxy([], hold="60s") as running:
        late = await Caller(scene.cleanups, await vip_of(running)).connect()
        await waiting(running, "endpoint", 1)
        assert (await running.row("web"))["status"] == "no-endpoints"
        scene.write(scene.keepers("a"), hold="60s")
        assert await late.read() == b"a"
        scene.write([], hold="100ms")
        await asks_for(running, {"hold": "0.1s"})
        with pytest.raises(ConnectionResetError):
            await (await Caller(scene.cleanups, await vip_of(running)).connect()).read()
        await closes(running, "hold-timeout", 1)


async def test_a_greatest_age(scene: Scene) -> None:
    async with scene.proxy(scene.keepers("a"), max_connection_age="500ms") as running:
        _, caller = await call(scene.cleanups, await vip_of(running))
        assert await caller.read() == b""
        await closes(running, "max-age", 1)


async def test_the_endpoint_is_told_who_calls(scene: Scene) -> None:
    server = await Told(scene.cleanups).start()
    async with scene.proxy([server], proxy_protocol="v2") as running:
        vip = await vip_of(running)
        caller = await Caller(scene.cleanups, vip).connect()
        assert await caller.read() == b"name "
        assert server.headers == [Header(caller.socket.getsockname(), vip)]
