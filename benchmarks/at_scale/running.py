"""A cluster of namespaces in which uproxy follows the stand-in API server, and what can be asked of it.

Owns starting both programs on one node, and reading the proxy's instruments.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import msgspec

from benchmarks.at_scale.observed import Figures
from benchmarks.at_scale.population import BACKEND_PORT, NODE, PORT, Population
from uproxy.bench.churn import Caller, named_servers
from uproxy.bench.costs import rss_bytes
from uproxy.bench.paths import Address
from uproxy.bench.programs import Program, http_get, running, wait_until
from uproxy.bench.sites import Pod
from uproxy.kit.lab import Host, Lab

ROOT = Path(__file__).resolve().parents[2]
_HEALTHZ_PORT = 10256
_READY_WITHIN_S = 300.0
_SETTLES_S = 1.0


@dataclass
class Cluster:
    """One node whose proxy follows one API server."""

    lab: Lab
    population: Population
    program: Program
    ready_s: float
    """From the start of the process until it says that it is healthy."""
    orders: IO[str]
    answers: IO[str]
    figures_file: Path
    caller: Caller = field(init=False)

    def __post_init__(self) -> None:
        self.caller = Caller(self.lab.client, Address(self.population.vip(0), PORT))

    def order(self, *words: object) -> dict[str, Any]:
        """Have something done to the cluster's objects; when it was."""
        self.orders.write(" ".join(map(str, words)) + "\n")
        self.orders.flush()
        answer: dict[str, Any] = json.loads(self.answers.readline())
        return answer

    def figures(self) -> Figures:
        """What the instruments have seen since the last time."""
        self.figures_file.unlink(missing_ok=True)
        os.kill(self.program.pid, signal.SIGUSR1)
        self.program.wait_until(self.figures_file.exists, "its figures")
        return msgspec.json.decode(self.figures_file.read_bytes(), type=Figures)

    def rss_bytes(self) -> int:
        """Resident memory now."""
        return rss_bytes([self.program.pid])

    def peak_rss_bytes(self) -> int:
        """Most resident memory that the process ever had (VmHWM)."""
        lines = Path(f"/proc/{self.program.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


@contextmanager
def cluster(services: int, endpoints: int, *, pods: int = 2) -> Iterator[Cluster]:
    """One that is ready, with servers in its pods that say their names."""
    with ExitStack() as stack:
        lab = stack.enter_context(Lab(pods=pods))
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="uproxy-cluster-")))
        servers = [Pod(pod.ip4, pod.ip4, BACKEND_PORT, pod) for pod in lab.pods]
        stack.enter_context(named_servers(servers))
        population = Population(services, endpoints, (lab.pods[0].ip4,))
        orders, answers, kubeconfig = _serve(lab.node, directory, population)
        figures_file = directory / "figures"
        started_s = time.perf_counter()
        program = stack.enter_context(running("uproxy", lab.node, *_argv(figures_file, kubeconfig)))
        program.wait_until(lambda: _healthy(lab.node), "its healthz", timeout_s=_READY_WITHIN_S)
        ready_s = time.perf_counter() - started_s
        time.sleep(_SETTLES_S)
        made = Cluster(lab, population, program, ready_s, orders, answers, figures_file)
        stack.callback(made.caller.close)
        wait_until(lambda: made.caller.ask() == servers[0].name, "an answer from the first pod")
        yield made


def _serve(node: Host, directory: Path, population: Population) -> tuple[IO[str], IO[str], str]:
    numbers = (str(population.services), str(population.endpoints), ",".join(population.pods))
    process = node.exec(
        *(sys.executable, "-m", "benchmarks.at_scale.server", str(directory), *numbers),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout, process.stdout.readline().strip()


def _argv(figures_file: Path, kubeconfig: str) -> list[str]:
    instruments = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "benchmarks.at_scale.observed"]
    follow = ["run", "--kubeconfig", kubeconfig, "--hostname-override", NODE, "--capture", "redirect"]
    return [*instruments, str(figures_file), *follow]


def _healthy(node: Host) -> bool:
    return http_get(node, _HEALTHZ_PORT, "/healthz")[0] == 200
