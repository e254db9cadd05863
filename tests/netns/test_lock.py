"""Who may hold the lock on a network, and who may not, between processes and users."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.proxy_process import UPROXY, ProxyProcess, eventually
from uproxy.kit.lab import Host, Lab
from uproxy.steering.lock import HELD

AS_ANOTHER = ("setpriv", "--reuid=1234", "--regid=1234", "--clear-groups")
GRANTED = "+net_admin,+dac_read_search"
PYTHON = (*UPROXY[:2], sys.executable, "-c")
SERVICE = (
    "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}\n"
)

STRANGER = """
import socket, sys
count, held = int(sys.argv[1]), []
for number in range(count):
    for end in ("", f"/{number:06x}", "/" * number):
        name = "\\0uproxy/steering" + end
        door = socket.socket(socket.AF_UNIX)
        try:
            door.bind(name[:100])
            door.listen()
        except OSError:
            continue
        held.append(door)
    claim = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
    claim.bind((0x75 << 24 | number, 0))
    held.append(claim)
try:
    claim.setsockopt(270, 1, 8)
    print("joined", flush=True)
except PermissionError:
    print("taken", len(held), flush=True)
sys.stdin.read()
"""
HOLDER = """
import sys
from uproxy.steering.lock import SteeringLock
lock = SteeringLock()
print("held", flush=True)
sys.stdin.read()
"""
RACER = """
import os, sys
from time import sleep
from uproxy.errors import UproxyError
from uproxy.steering.lock import SteeringLock
had = 0
for _ in range(60):
    try:
        lock = SteeringLock(0.5)
    except UproxyError:
        continue
    os.close(os.open(sys.argv[1], os.O_CREAT | os.O_EXCL))  # raises when somebody else has it too
    had += 1
    os.unlink(sys.argv[1])
    lock.release()
print(had)
"""
LEAVING = """
import asyncio, os, sys
from uproxy.kit.commands import run
from uproxy.steering.lock import SteeringLock
lock = SteeringLock()
asyncio.run(run("sh", "-c", "echo $$ >$0; read word <$1", *sys.argv[1:]))
"""


@pytest.fixture
def node() -> Iterator[Host]:
    with Lab(pods=0) as lab:
        yield lab.node


def told(process: subprocess.Popen[str]) -> str:
    """The first line that it prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def piped(node: Host, *argv: str) -> subprocess.Popen[str]:
    return node.exec(*argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def refusal(node: Host) -> str:
    """What `uproxy cleanup` says, which needs the lock."""
    return node.run(*UPROXY, "cleanup", check=False).stderr


@pytest.mark.parametrize("count", [1, 1000])
async def test_a_local_user_without_rights_holds_nobody_up(node: Host, tmp_path: Path, count: int) -> None:
    program = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", STRANGER)
    stranger = piped(node, "prlimit", "--nofile=8192", *program, str(count))
    assert told(stranger).startswith("taken")
    assert refusal(node) == ""
    (tmp_path / "a.yaml").write_text(SERVICE)
    flags = ("-f", str(tmp_path / "a.yaml"), "--capture", "redirect")
    async with ProxyProcess(node, *flags, log=tmp_path / "log") as proxy:
        assert HELD in refusal(node)
        later = ProxyProcess(
            node, *flags, "--take-over", log=tmp_path / "later", healthz=("127.0.0.1", 20256)
        )
        later._wait_for = 0
        async with later:

            async def waits() -> bool:
                return "all objects are known" in later.log

            await eventually(waits, "a successor that waits")
            proxy.terminate()
            assert await proxy.status() == 0

            async def serves() -> bool:
                return "ready:" in later.log

            await eventually(serves, "the successor")
            later.terminate()
            assert await later.status() == 0
    assert refusal(node) == ""


@pytest.mark.parametrize(
    "who",
    [(), (*AS_ANOTHER, f"--inh-caps={GRANTED}", f"--ambient-caps={GRANTED}")],
    ids=["root", "another-user-with-the-capability"],
)
def test_who_may_program_the_network_holds_it_against_all_others(node: Host, who: tuple[str, ...]) -> None:
    holder = piped(node, *who, *PYTHON, HOLDER)
    assert told(holder) == "held"
    assert HELD in refusal(node)
    holder.kill()
    holder.wait()
    assert refusal(node) == ""


def test_of_many_at_once_one_has_it(node: Host, tmp_path: Path) -> None:
    racers = [piped(node, *PYTHON, RACER, str(tmp_path / "had")) for _ in range(4)]
    had = [told(racer) for racer in racers]
    assert all(racer.wait() == 0 for racer in racers), "two had it at once"
    assert sum(map(int, had)) > 60


async def test_it_outlives_a_killed_process_until_its_programs_have_ended(node: Host, tmp_path: Path) -> None:
    at_work, go = tmp_path / "pid", tmp_path / "go"
    os.mkfifo(go)
    killed = node.exec(*PYTHON, LEAVING, str(at_work), str(go))

    async def works() -> bool:
        return at_work.exists() and at_work.read_text() != ""

    await eventually(works, "a program at work")
    killed.kill()
    killed.wait()
    assert HELD in refusal(node)
    go.write_text("go\n")
    assert refusal(node) == ""


def test_the_root_of_another_user_namespace_may_not_program_this_network(node: Host) -> None:
    as_root = ("unshare", "--user", "--map-root-user")
    foreign = node.run(*as_root, *UPROXY, "check", check=False)
    if "unshare:" in foreign.stderr:
        pytest.skip(foreign.stderr.strip())
    assert "CAP_NET_ADMIN: not granted for this network" in foreign.stdout
    assert "capture: bind by loopback" in foreign.stdout
    own = node.run(*as_root, "--net", *UPROXY, "check")
    assert "CAP_NET_ADMIN: ok" in own.stdout
