"""`uproxy run --kubeconfig` as a program, on loopback: what it says of itself.

What clients see of a cluster's life is tests/netns/cluster's: Pods on loopback addresses are refused.
"""

import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.cluster import objects
from tests.cluster.api_server import RunningApiServer, running_api_server
from tests.loop.e2e.conftest import prefix  # noqa: F401 - a fixture
from tests.loop.e2e.test_rootless import proxy
from tests.proxy_process import UPROXY, ProxyProcess, eventually

NODE = "node-1"
PORT = 8080
VIP = f"127.{150 + os.getpid() % 100}.0.10"
"""Tests run side by side, and each has addresses of its own."""


def web() -> dict:
    made = objects.service("web", VIP)
    made["spec"]["ports"][0]["port"] = PORT
    return made


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


async def test_events_of_the_node_are_posted(prefix, tmp_path, server):  # noqa: F811
    async with agent(prefix, tmp_path, server) as running:
        await eventually(lambda: posted(running), "an Event")
    [event] = server.server.events
    assert (event["reason"], event["type"], event["regarding"]["name"]) == ("Starting", "Normal", NODE)


async def posted(running: ProxyProcess) -> bool:
    return await running.metric("uproxy_events_total", outcome="posted") == 1


async def test_health_follows_the_node(prefix, tmp_path, server):  # noqa: F811
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
