"""Names through the command line: `uproxy run --dns`, `uproxy dns`, `uproxy resolve`."""

import asyncio
import subprocess
import sys
from pathlib import Path

import dns.asyncquery
import dns.message
import dns.rcode
import pytest

from tests.loop.conftest import free_port
from tests.loop.e2e.test_rootless import proxy
from tests.manifests import endpoint_slice, service, text_of
from tests.proxy_process import UPROXY, eventually

PORTS = [{"name": "http", "port": 80}]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "names.yaml"
    objects = [
        service("db", PORTS, clusterIP="None"),
        endpoint_slice("db", ["10.1.2.3", "10.1.2.4"], [{"name": "http", "port": 8080}], "IPv4"),
        service("web", PORTS, clusterIP="127.96.7.7"),
    ]
    path.write_text(text_of(objects))
    return path


async def ask(port: int, name: str, kind: str = "A") -> tuple[str, set[str]]:
    """The rcode, and the data of the answers."""
    query = dns.message.make_query(name, kind)
    answer = await dns.asyncquery.udp(query, "127.0.0.1", timeout=20, port=port)
    return dns.rcode.to_text(answer.rcode()), {str(data) for rrset in answer.answer for data in rrset}


async def test_run_answers_names_and_counts_them(prefix, tmp_path: Path, manifest: Path) -> None:
    port = free_port()
    async with proxy(prefix, tmp_path, "-f", str(manifest), "--dns", f"127.0.0.1:{port}") as running:
        assert await ask(port, "db.default.svc.cluster.local") == ("NOERROR", {"10.1.2.3", "10.1.2.4"})
        assert await ask(port, "web.default.svc.cluster.local") == ("NOERROR", {"127.96.7.7"})
        assert await ask(port, "nobody.default.svc.cluster.local") == ("NXDOMAIN", set())
        assert await running.metric("coredns_dns_responses_total", rcode="NXDOMAIN") == 1
        assert await running.metric("coredns_dns_requests_total", proto="udp", type="A") == 3


async def test_dns_alone_answers_until_it_is_stopped(manifest: Path) -> None:
    port = free_port()
    argv = (*UPROXY, "dns", "-f", str(manifest), "--capture", "bind", "--dns", f"127.0.0.1:{port}")
    process = await asyncio.create_subprocess_exec(*argv, stderr=subprocess.DEVNULL)
    try:
        await eventually(lambda: answers(port), "answers")
        process.terminate()
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def answers(port: int) -> bool:
    try:
        async with asyncio.timeout(1):
            return await ask(port, "db.default.svc.cluster.local") == ("NOERROR", {"10.1.2.3", "10.1.2.4"})
    except (TimeoutError, OSError):
        return False


def test_resolve_tells_the_answer_and_where_it_comes_from(manifest: Path) -> None:
    done = run("resolve", "db", "-f", str(manifest))
    assert done.returncode == 0
    assert "db.default.svc.cluster.local. 5 IN A 10.1.2.3  ; Service default/db" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(("dns",), "--dns: give at least one address", id="no address"),
        pytest.param(("dns", "--dns", "here"), "--dns: 'here' is not an address", id="no such address"),
        pytest.param(
            ("resolve", "web", "--cluster-domain", "a..b"), "cannot be a cluster domain", id="domain"
        ),
        pytest.param(("resolve", "a..b"), "'a..b' is no name", id="name"),
    ],
)
def test_mistakes_are_one_line(manifest: Path, arguments: tuple[str, ...], words: str) -> None:
    done = run(*arguments, "-f", str(manifest))
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert words in line


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = (sys.executable, "-m", "uproxy", *arguments, "--capture", "bind")
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)  # noqa: TID251
