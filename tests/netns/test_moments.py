"""Told to end, or killed, at any moment from its first to its last: the node is as it was, or is so after the
next start or `cleanup`.

Moments are drawn from a seed; how long a start takes here is measured first. `UPROXY_TESTS_MOMENTS=100`
draws that many for each test.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from time import monotonic, sleep

import pytest

import uproxy
from tests.netns.kernel_state import kernel_state
from tests.proxy_process import UPROXY
from uproxy.kit.lab import Host, Lab

MOMENTS = int(os.environ.get("UPROXY_TESTS_MOMENTS", "8"))
ENDS_WITHIN_S = 120.0
"""The drain of a second, on a machine that may be very busy."""
SERVICES = """\
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80}], externalIPs: [203.0.113.7]}
---
apiVersion: v1
kind: Service
metadata: {name: names}
spec: {clusterIP: 10.96.0.2, ports: [{port: 53, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: hot, annotations: {uproxy.dev/handoff: always}}
spec: {clusterIP: 10.96.0.3, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: hot-1, labels: {kubernetes.io/service-name: hot}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.244.0.11]}]
"""
WAYS = (("redirect", "off"), ("tproxy", "off"), ("bind", "off"), ("redirect", "auto"))
TOLD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)

pytestmark = pytest.mark.timeout(300)
"""Each moment is a start or two of the whole program."""


class Node:
    """A host on which `uproxy` is started and ended; `before` is what its kernel had."""

    def __init__(self, host: Host, folder: Path, random: Random) -> None:
        self.host, self._folder, self._random = host, folder, random
        (folder / "services.yaml").write_text(SERVICES)
        self._launcher = _launcher(folder)
        self.before = kernel_state(host)
        begun_s = monotonic()
        process = self.run()
        self.until_ready(process)
        self.start_s = monotonic() - begun_s
        self.end(process, signal.SIGTERM)

    def run(self, *flags: str, first: bool = False, port: int = 10249) -> subprocess.Popen[str]:
        """Start a proxy with some capture; as the first process of a container, or not."""
        capture, handoff = self._random.choice(WAYS)
        addresses = (
            "--metrics-bind-address",
            f"127.0.0.1:{port}",
            "--healthz-bind-address",
            f"127.0.0.1:{port + 1}",
        )
        argv = (str(self._launcher), "run", "-f", str(self._folder / "services.yaml"), "--capture", capture)
        argv += ("--handoff", handoff, "--drain-timeout", "1s", *addresses, *flags)
        contained = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc") if first else ()
        self.log = self._folder / f"log-{port}"
        with self.log.open("w") as log:
            return self.host.exec(*contained, *argv, stdout=log, stderr=log, text=True)

    def until_ready(self, process: subprocess.Popen[str]) -> None:
        _until(
            lambda: "ready:" in self.log.read_text() or process.poll() is not None, "a proxy that is ready"
        )
        assert process.poll() is None, self.log.read_text()

    def sometime(self, share: float = 1.4) -> None:
        """Wait for some part of a start and a bit more."""
        sleep(self._random.uniform(0, share * self.start_s))

    def end(self, process: subprocess.Popen[str], number: int) -> None:
        """Send a signal, and wait for the end."""
        _send(process, number)
        assert process.wait(ENDS_WITHIN_S) in (0, -number, 128 + number), self.log.read_text()

    def cleanup(self) -> None:
        self.host.run(*UPROXY, "cleanup")

    def assert_as_before(self, what: str) -> None:
        assert kernel_state(self.host) == self.before, f"{what}: {self.log.read_text()}"


def _launcher(folder: Path) -> Path:
    """`uproxy` as it is installed, for the Python that runs the tests."""
    package = Path(uproxy.__file__).parent
    python = folder / "python3"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={package.parent} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return Path(shutil.copy(package / "launcher" / "uproxy", folder))


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = monotonic() + ENDS_WITHIN_S
    while not condition():
        assert monotonic() < deadline_s, f"not seen: {what}"
        sleep(0.005)


def _inner(process: subprocess.Popen[str]) -> int:
    """The process that is the first in its namespace; itself where there is none of its own."""
    pid = process.pid
    if b"unshare" not in Path(f"/proc/{pid}/cmdline").read_bytes():
        return pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else pid


def _first_moment(process: subprocess.Popen[str]) -> None:
    """Until signals wait for the first process of a container to take them: before that, they are lost."""

    def holds_back_or_catches() -> bool:
        status = Path(f"/proc/{_inner(process)}/status").read_text().splitlines()
        masks = {line.split(":")[0]: line.split(":")[1] for line in status}
        argv = Path(f"/proc/{_inner(process)}/cmdline").read_bytes().split(b"\0")
        bit = 1 << (signal.SIGTERM - 1)
        held = int(masks["SigBlk"], 16) | (int(masks["SigCgt"], 16) if b"-m" in argv else 0)
        return b"unshare" not in argv[0] and bool(held & bit)

    _until(holds_back_or_catches, "a process that has begun")


def _send(process: subprocess.Popen[str], number: int) -> None:
    if process.poll() is None:
        os.kill(_inner(process), number)


@pytest.fixture
def node(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Node]:
    with Lab(pods=1) as lab:
        lab.node.run("modprobe", "nf_conntrack", check=False)
        yield Node(lab.node, tmp_path, Random(request.node.name))


@pytest.mark.parametrize("first", [False, True], ids=["a-process", "process-1"])
@pytest.mark.parametrize("number", TOLD, ids=lambda number: number.name)
def test_told_at_any_moment_it_leaves_the_node_as_it_was(node: Node, number: int, first: bool) -> None:
    for moment in range(MOMENTS):
        process = node.run(first=first)
        if first:
            _first_moment(process)
        node.sometime()
        node.end(process, number)
        node.assert_as_before(f"moment {moment}")


@pytest.mark.parametrize("first", [False, True], ids=["a-process", "process-1"])
def test_killed_at_any_moment_the_next_start_or_cleanup_makes_it_as_it_was(node: Node, first: bool) -> None:
    for moment in range(MOMENTS):
        process = node.run(first=first)
        node.sometime()
        if moment % 2:  # in the middle of its end
            _send(process, signal.SIGTERM)
            node.sometime(0.1)
        _send(process, signal.SIGKILL)
        process.wait(ENDS_WITHIN_S)
        if moment % 3:
            node.cleanup()
        else:
            process = node.run()
            node.until_ready(process)
            node.end(process, signal.SIGTERM)
        node.assert_as_before(f"moment {moment}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_cleanup_that_is_ended_at_any_moment_is_done_by_the_next(node: Node, number: int) -> None:
    for moment in range(MOMENTS // 2):
        process = node.run()
        node.until_ready(process)
        _send(process, signal.SIGKILL)
        process.wait(ENDS_WITHIN_S)
        cleaning = node.host.exec(*UPROXY, "cleanup", stdout=subprocess.DEVNULL, text=True)
        node.sometime(0.8)
        _send(cleaning, number)
        status = cleaning.wait(ENDS_WITHIN_S)
        if status:
            assert status == -number
            node.cleanup()
        node.assert_as_before(f"moment {moment}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_taking_over_that_ends_at_any_moment_leaves_nothing(node: Node, number: int) -> None:
    for moment in range(MOMENTS // 2):
        earlier = node.run()
        node.until_ready(earlier)
        later = node.run("--take-over", port=20249)
        node.sometime()
        _send(earlier, signal.SIGTERM)
        node.sometime(0.5)
        _send((earlier, later)[moment % 2], number)
        for process in (earlier, later):
            _send(process, signal.SIGTERM)
            process.wait(ENDS_WITHIN_S)
        if number == signal.SIGKILL:
            node.cleanup()
        node.assert_as_before(f"moment {moment}")
