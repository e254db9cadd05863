"""`uproxy check` says what `uproxy run` would meet: each way to end within the start, by the same line."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.kernel_state import kernel_state
from tests.proxy_process import UPROXY, ProxyProcess
from uproxy.kit.lab import Host, Lab
from uproxy.steering.lock import HELD

SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {ports: [{port: 80}]}
"""
POWERLESS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--securebits=+noroot", "--")
KUBECONFIG = {
    "current-context": "it",
    "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    "clusters": [{"name": "it", "cluster": {"server": "https://127.0.0.1:1"}}],
}


class Case:
    """How to start, and what the complaint has in it."""

    def __init__(
        self,
        *flags: str,
        says: str,
        prefix: tuple[str, ...] = (),
        taken: tuple[int, int] = (0, 0),
        files: dict[str, str] | None = None,
        sources: bool = True,
    ) -> None:
        """`taken` is a kind of socket and a port of 127.0.0.1. `@` in flags is the folder of `files`."""
        self.flags, self.says, self.prefix, self.taken = flags, says, prefix, taken
        self.files = {"a.yaml": SERVICE} | (files or {})
        self.sources = sources

    def __str__(self) -> str:
        return " ".join((*self.flags, *self.prefix[:1], *map(str, filter(None, self.taken)))) or self.says


def _user(user: dict[str, object]) -> dict[str, str]:
    return {"kubeconfig": json.dumps(KUBECONFIG | {"users": [{"name": "it", "user": user}]})}


PLUGIN = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "/no/plugin"}}
BROKEN = SERVICE.replace("name: a", "name: b").replace("80", "800000")
TOKEN = {"tokenFile": "/no/token"}
DATAGRAMS = (socket.SOCK_DGRAM, 5353)
CASES = [
    Case(says="cannot serve metrics on 127.0.0.1:10249", taken=(socket.SOCK_STREAM, 10249)),
    Case(says="cannot serve health on 0.0.0.0:10256", taken=(socket.SOCK_STREAM, 10256)),
    Case("--healthz-bind-address", "203.0.113.9:80", says="cannot serve health on 203.0.113.9:80"),
    Case(
        "--dns", "127.0.0.1:5353", says="cannot serve DNS at 127.0.0.1:5353", taken=(socket.SOCK_DGRAM, 5353)
    ),
    Case("--dns", "203.0.113.9:53", says="cannot serve DNS at 203.0.113.9:53"),
    Case("--dns", "127.0.0.1:5353", "--cluster-domain", "a..b", says="cannot be a cluster domain"),
    Case("--kubeconfig", "@/none", says="No such file", sources=False),
    Case("--kubeconfig", "@/kubeconfig", says="is not YAML", sources=False, files={"kubeconfig": "{"}),
    Case("--kubeconfig", "@/kubeconfig", says="/no/plugin", sources=False, files=_user(PLUGIN)),
    Case(
        "--kubeconfig",
        "@/kubeconfig",
        says="/no/token",
        sources=False,
        files=_user({"tokenFile": "/no/token"}),
    ),
    Case("--config", "@/none", says="none: cannot be read: No such file"),
    Case("--config", "@/config", says="config", files={"config": "["}),
    Case("-f", "@/none.yaml", says="none.yaml"),
    Case("-f", "@/b.yaml", says="spec.ports[0].port", files={"b.yaml": BROKEN}),
    Case("--endpoint", "default/absent=127.0.0.1:80", says="there is no Service default/absent"),
    Case("--endpoint", "nonsense", says="--endpoint nonsense"),
    Case("--service-cidr", "10.0.0.0/8", says="--service-cidr 10.0.0.0/8 cannot be served", prefix=POWERLESS),
    Case("--service-cidr", "224.0.0.0/8", says="--service-cidr 224.0.0.0/8 cannot be served"),
    Case("--capture", "redirect", says="--capture redirect is not possible here", prefix=POWERLESS),
    Case("--capture", "tproxy", "--redirect-mechanism", "iptables", says="--capture tproxy is not possible"),
    Case("--threads", "none", says="--threads"),
    Case("--nodeport-addresses", "here", says="--nodeport-addresses"),
    Case("--cleanup", says="needs root (CAP_NET_ADMIN)", prefix=POWERLESS),
]


@pytest.fixture
def node() -> Iterator[Host]:
    with Lab(pods=0) as lab:
        yield lab.node


def written(folder: Path, case: Case) -> list[str]:
    for name, text in case.files.items():
        (folder / name).write_text(text)
    sources = ["-f", f"{folder}/a.yaml"] if case.sources else []
    return sources + [flag.replace("@", str(folder)) for flag in case.flags]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_mistake_of_run_is_one_of_check(case: Case, node: Host, tmp_path: Path) -> None:
    flags = written(tmp_path, case)
    kind, port = case.taken
    taken = node.socket(type=kind) if port else socket.socket()
    with taken:
        if port:
            taken.bind(("127.0.0.1", port))
            if kind == socket.SOCK_STREAM:
                taken.listen()
        before = kernel_state(node)
        checked = node.run(*case.prefix, *UPROXY, "check", *flags, check=False)
        assert kernel_state(node) == before
        ran = node.run(*case.prefix, "timeout", "20", *UPROXY, "run", *flags, check=False)
    complaints = [line for line in ran.stderr.splitlines() if line.startswith("uproxy: ")]
    assert ran.returncode == 1, ran.stderr
    assert any(case.says in line for line in complaints), ran.stderr
    assert checked.returncode == 1, checked.stdout
    assert set(complaints) <= set(checked.stderr.splitlines())


def test_all_mistakes_are_told_at_once(node: Host, tmp_path: Path) -> None:
    case = Case(
        "--healthz-bind-address", "203.0.113.9:80", "--dns", "203.0.113.9:53", "--endpoint", "x", says=""
    )
    done = node.run(*UPROXY, "check", *written(tmp_path, case), check=False)
    assert done.returncode == 1
    assert [line.split()[1] for line in done.stderr.splitlines()] == ["--endpoint", "cannot", "cannot"]


def test_the_machine_alone(node: Host) -> None:
    done = node.run(*UPROXY, "check")
    assert "capture: redirect by nft" in done.stdout
    assert "manifests" not in done.stdout
    assert "cleanup: possible" in node.run(*UPROXY, "check", "--cleanup").stdout


async def test_beside_another_proxy(node: Host, tmp_path: Path) -> None:
    flags = written(tmp_path, Case("--capture", "redirect", says=""))

    def asked(*more: str) -> tuple[int, str, str]:
        done = node.run(*UPROXY, "check", *more, check=False)
        return done.returncode, done.stdout, done.stderr

    async with ProxyProcess(node, *flags, log=tmp_path / "log") as proxy:
        status, _, complaint = asked(*flags)
        assert status == 1
        assert f"uproxy: {HELD}" in complaint
        assert asked("--cleanup")[0::2] == (1, f"uproxy: {HELD}\n")
        status, told, _ = asked(*flags, "--take-over")
        assert status == 0
        assert "another uproxy serves this machine, and would be followed" in told
        status, told, _ = asked()
        assert status == 0
        assert f"note: {HELD}" in told
        assert await proxy.health() == 200
        proxy.terminate()
        assert await proxy.status() == 0
    status, told, _ = asked(*flags, "--take-over")
    assert status == 0
    assert "there is nobody to wait for" in told
