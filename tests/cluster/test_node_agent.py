"""`uproxy run --kubeconfig` as a program, on loopback: the life of a cluster as its clients see it."""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from tests.cluster import objects
from tests.cluster.api_server import RunningApiServer, running_api_server
from tests.loop.e2e.conftest import prefix  # noqa: F401 - a fixture
from tests.loop.e2e.test_rootless import proxy
from tests.proxy_process import UPROXY, ProxyProcess, eventually

NODE = "node-1"
PORT = 8080
VIP = f"127.{150 + os.getpid() % 100}.0.10"
"""Tests run side by side, and each has addresses of its own."""


class Pods:
    """Servers on loopback addresses, each of which says its own."""

    def __init__(self) -> None:
        self._servers: dict[str, asyncio.Server] = {}
        self._port = 0

    async def start(self, ip: str) -> str:
        async def hello(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(f"{ip}\n".encode())
            writer.close()

        server = await asyncio.start_server(hello, ip, self._port)
        self._port = server.sockets[0].getsockname()[1]
        self._servers[ip] = server
        return ip

    def stop(self, ip: str) -> None:
        self._servers.pop(ip).close()

    def slice(self, *endpoints: dict) -> dict:
        made = objects.endpoint_slice("web-1", service="web")
        made["ports"] = [{"name": "http", "protocol": "TCP", "port": self._port}]
        return made | {"endpoints": list(endpoints)}

    def close(self) -> None:
        for server in self._servers.values():
            server.close()


def pod_ip(number: int) -> str:
    return f"127.{150 + os.getpid() % 100}.1.{number}"


def web() -> dict:
    made = objects.service("web", VIP)
    made["spec"]["ports"][0]["port"] = PORT
    return made


async def ask() -> str:
    reader, writer = await asyncio.wait_for(asyncio.open_connection(VIP, PORT), 20)
    line = await asyncio.wait_for(reader.readline(), 20)
    writer.close()
    return line.decode().strip()


async def asks(expected: set[str]) -> bool:
    """Whether these pods answer, and no others."""
    try:
        return {await ask() for _ in range(2 * len(expected) + 1)} == expected
    except OSError:
        return not expected


@pytest_asyncio.fixture
async def pods() -> AsyncIterator[Pods]:
    made = Pods()
    yield made
    made.close()


@pytest.fixture
def server(certificates):
    with running_api_server(certificates) as running:
        running.put(objects.node(NODE), web())
        yield running


@asynccontextmanager
async def agent(prefix, folder: Path, server: RunningApiServer) -> AsyncIterator[ProxyProcess]:  # noqa: F811
    kubeconfig = server.server.token_kubeconfig(folder / "kubeconfig", folder / "token")
    flags = ("--kubeconfig", str(kubeconfig), "--hostname-override", NODE)
    async with proxy(prefix, folder, *flags) as running:
        yield running


async def test_changes_are_followed_also_those_made_while_the_server_was_away(prefix, tmp_path, server, pods):  # noqa: F811
    one, two = await pods.start(pod_ip(1)), await pods.start(pod_ip(2))
    server.put(pods.slice(objects.endpoint(one)))
    async with agent(prefix, tmp_path, server) as running:
        assert await ask() == one
        server.put(pods.slice(objects.endpoint(one), objects.endpoint(two)))
        await eventually(lambda: asks({one, two}), "both pods")
        server.stop()
        await eventually(lambda: says_away(running), "that the API server is away")
        assert await running.health() == 200
        assert await asks({one, two})
        server.put(pods.slice(objects.endpoint(two)), objects.service("late", VIP.removesuffix("10") + "11"))
        assert await asks({one, two})
        server.start()
        await eventually(lambda: asks({two}), "what changed meanwhile")
        await eventually(lambda: knows(running, "late"), "what came meanwhile")
        await eventually(lambda: says_there(running), "that the API server is back")
        server.delete(objects.service("web"))
        await eventually(lambda: asks(set()), "the end of the Service")
        running.terminate()
        assert await running.status() == 0


async def says_away(running: ProxyProcess) -> bool:
    away_s = await running.metric("uproxy_kubernetes_disconnected_seconds", resource="services")
    _, body = await running._fetch(running._healthz, "/healthz")
    return away_s > 0 and "apiServerAwaySince" in json.loads(body)


async def says_there(running: ProxyProcess) -> bool:
    resources = ("services", "endpointslices", "nodes")
    name = "uproxy_kubernetes_disconnected_seconds"
    return not any([await running.metric(name, resource=resource) for resource in resources])


async def knows(running: ProxyProcess, name: str) -> bool:
    return any(row["name"] == name for row in await running.services())


async def test_a_rolling_update_costs_no_connection(prefix, tmp_path, server, pods):  # noqa: F811
    ips = [await pods.start(pod_ip(number)) for number in (1, 2, 3)]
    server.put(pods.slice(*map(objects.endpoint, ips)))
    async with agent(prefix, tmp_path, server):
        failures: list[OSError] = []
        answers: list[str] = []
        enough = asyncio.Event()
        loading = asyncio.ensure_future(load(answers, failures, enough))
        for number, old in enumerate(ips, 4):
            new = await pods.start(pod_ip(number))
            others = [objects.endpoint(ip) for ip in (*ips[number - 3 :], *map(pod_ip, range(4, number)))]
            server.put(pods.slice(objects.endpoint(old), objects.endpoint(new), *others))
            await eventually(lambda new=new: has_answered(answers, new), "the new pod")
            ending = objects.endpoint(old, ready=False, serving=True, terminating=True)
            server.put(pods.slice(ending, objects.endpoint(new), *others))
            await eventually(lambda old=old: is_quiet(answers, old), "the end of the old pod")
            pods.stop(old)  # not sooner: what waits to be accepted is reset by the kernel
            server.put(pods.slice(objects.endpoint(new), *others))
        enough.set()
        await loading
        assert failures == []
        assert set(answers) == set(map(pod_ip, range(1, 7)))


async def load(answers: list[str], failures: list[OSError], enough: asyncio.Event) -> None:
    while not enough.is_set():
        try:
            answers.append(await ask())
        except OSError as error:
            failures.append(error)


async def has_answered(answers: list[str], ip: str) -> bool:
    return ip in answers


async def is_quiet(answers: list[str], ip: str) -> bool:
    answers_before = len(answers)
    await eventually(lambda: grown(answers, answers_before + 10), "ten more answers")
    return ip not in answers[answers_before:]


async def grown(answers: list[str], count: int) -> bool:
    return len(answers) >= count


async def test_a_token_may_change_while_it_runs(prefix, tmp_path, server, pods):  # noqa: F811
    one, two = await pods.start(pod_ip(1)), await pods.start(pod_ip(2))
    server.put(pods.slice(objects.endpoint(one)))
    async with agent(prefix, tmp_path, server):
        assert await ask() == one
        server.call(server.server.tokens.clear)
        server.call(server.server.tokens.add, "second-token")
        (tmp_path / "token").write_text("second-token\n")
        server.call(server.server.drop_all)
        server.put(pods.slice(objects.endpoint(two)))
        await eventually(lambda: asks({two}), "what came after the change")


async def test_events_of_the_node_are_posted(prefix, tmp_path, server, pods):  # noqa: F811
    async with agent(prefix, tmp_path, server) as running:
        await eventually(lambda: posted(running), "an Event")
    [event] = server.server.events
    assert (event["reason"], event["type"], event["regarding"]["name"]) == ("Starting", "Normal", NODE)


async def posted(running: ProxyProcess) -> bool:
    return await running.metric("uproxy_events_total", outcome="posted") == 1


async def test_health_follows_the_node(prefix, tmp_path, server, pods):  # noqa: F811
    async with agent(prefix, tmp_path, server) as running:
        taint = {"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}
        for change, status in (
            (lambda: server.put(objects.node(NODE, taints=[taint])), 503),
            (lambda: server.put(objects.node(NODE)), 200),
            (lambda: server.delete(objects.node(NODE)), 503),
        ):
            change()
            await eventually(lambda status=status: is_health(running, status), f"health {status}")
            assert (await running._fetch(running._healthz, "/livez"))[0] == 200
        await eventually(lambda: has_told(running), "what the log says of it")


async def has_told(running: ProxyProcess) -> bool:
    lines = [line.partition(f"node {NODE} ")[2] for line in running.log.splitlines()]
    return [line for line in lines if line] == [
        "is being deleted, or tainted ToBeDeletedByClusterAutoscaler: /healthz is 503",
        "takes new traffic again",
        "is not in the cluster (--hostname-override?): no endpoint is local, /healthz is 503",
    ]


async def is_health(running: ProxyProcess, status: int) -> bool:
    return await running.health() == status


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param(None, "kubeconfig", id="missing"),
        pytest.param("clusters: 1\n", "kubeconfig", id="not a kubeconfig"),
        pytest.param(
            "apiVersion: v1\nkind: Config\ncurrent-context: nobody\n", "nobody", id="no such context"
        ),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_one_line(tmp_path, text, words):
    path = tmp_path / "kubeconfig"
    if text is not None:
        path.write_text(text)
    ports = ("--metrics-bind-address", "127.0.0.1:0", "--healthz-bind-address", "127.0.0.1:0")
    done = subprocess.run(  # noqa: TID251 - no event loop here
        (*UPROXY, "run", "--capture", "bind", "--kubeconfig", str(path), *ports),
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("uproxy: ")]
    assert words in line
    assert "Traceback" not in done.stderr
