"""Mistakes in manifests and flags: all of them at once, each where it stands, and exit 1."""

import os
from pathlib import Path

import pytest

from tests.proxy_process import UPROXY
from uproxy.kit.commands import run

ONE = """\
apiVersion: v1
kind: Service
metadata: {name: fine}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: far}
spec: {ports: [{port: 123456}], sessionAffinity: Sometimes}
---
apiVersion: v1
kind: Service
metadata: {name: odd, namespace: shop}
spec: {clusterIP: 10.96.0, ports: [{port: 80}]}
"""
TWO = """\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: fine-1, labels: {kubernetes.io/service-name: fine}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [127.0.0.1]}, {addresses: [here]}]
"""
TORN = "kind: [Service\n"

EXPECTED = (
    ("one.yaml, document 2: Service default/far: ", "spec.ports[0].port: "),
    ("one.yaml, document 2: Service default/far: ", "spec.sessionAffinity: "),
    ("one.yaml, document 3: Service shop/odd: ", "spec.clusterIP: "),
    ("two.yaml, document 1: EndpointSlice default/fine-1: ", "endpoints[1].addresses[0]: "),
    ("torn.yaml", ""),
)


@pytest.fixture
def manifests(tmp_path: Path) -> list[str]:
    """The flags that name three files with mistakes in them."""
    flags = []
    for name, text in (("one.yaml", ONE), ("two.yaml", TWO), ("torn.yaml", TORN)):
        (tmp_path / name).write_text(text)
        flags += ["-f", str(tmp_path / name)]
    return flags


@pytest.mark.parametrize("command", ["run", "check"])
async def test_every_mistake_is_told_with_its_place(
    command: str, manifests: list[str], tmp_path: Path
) -> None:
    done = await run(*UPROXY, command, *manifests)
    assert done.status == 1
    lines = done.stderr.splitlines()
    assert len(lines) == len(EXPECTED), done.stderr
    for place, field in EXPECTED:
        start = f"uproxy: {tmp_path}{os.sep}{place}{field}"
        assert any(line.startswith(start) for line in lines), f"no line begins with {start!r}: {done.stderr}"


async def test_mistakes_in_flags_are_told_together(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(ONE.partition("---")[0])
    flags = ("--connect-timeout", "soon", "--service-cidr", "10.96.0.0/99", "--metrics-bind-address", "here")
    done = await run(*UPROXY, "run", "-f", str(tmp_path / "one.yaml"), *flags)
    assert done.status == 1
    assert [line.split(": ")[1] for line in done.stderr.splitlines()] == [
        "--metrics-bind-address",
        "--service-cidr",
        "--connect-timeout",
    ]


async def test_endpoint_for_a_service_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(ONE.partition("---")[0])
    endpoint = "default/absent=127.0.0.1:80"
    done = await run(*UPROXY, "check", "-f", str(tmp_path / "one.yaml"), "--endpoint", endpoint)
    assert done.status == 1
    assert done.stderr == f"uproxy: --endpoint {endpoint}: there is no Service default/absent\n"


async def test_flags_are_not_guessed_from_their_beginnings() -> None:
    done = await run(*UPROXY, "run", "-f", "web.yaml", "--hostname", "node-1")
    assert done.status == 1
    assert done.stderr == "uproxy: unrecognized arguments: --hostname node-1 (try uproxy --help)\n"
