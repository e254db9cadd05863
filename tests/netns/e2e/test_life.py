"""Beginnings and ends of a proxy, orderly and not."""

import os
import shutil

import pytest

from tests.netns.e2e.callers import answer, ask, connected, datagrams, echoes, is_refused, name_from, rest_of
from tests.netns.e2e.stage import DNS, WEB, Stage, node_ports, way, web
from tests.proxy_process import UPROXY, eventually
from uproxy.errors import CommandFailed

SERVED = {"type": "NodePort", "ports": node_ports(tcp=30080, udp=30053), "externalIPs": ["203.0.113.7"]}
UNSERVED_IPS = ("172.30.0.9", "fd00:172:30::9")

# The first rule that anybody adds makes iptables-nft add its built-in chains, which then stay.
_BUILT_IN_CHAINS = {
    "nat": ("PREROUTING", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "mangle": ("PREROUTING", "OUTPUT"),
}
_ADD_AND_DELETE = "".join(
    f"*{table}\n" + "".join(f"-A {chain} -j RETURN\n-D {chain} -j RETURN\n" for chain in chains) + "COMMIT\n"
    for table, chains in _BUILT_IN_CHAINS.items()
)


@pytest.fixture
def before(stage: Stage) -> str:
    """What the kernel has before any proxy ran."""
    for program in ("iptables-restore", "ip6tables-restore"):
        stage.node.run(program, "--noflush", input=_ADD_AND_DELETE)
    return stage.kernel_state()


def everything(stage: Stage) -> list[dict]:
    """Services that between them need something of every kind."""
    return web(stage.pods, **SERVED) + web([], name="unserved", clusterIPs=UNSERVED_IPS)


async def works(stage: Stage) -> bool:
    """Whether TCP and UDP are answered, or at least refused where they should be."""
    with datagrams(stage.client, DNS[0]) as sock:
        names = {await ask(stage.client, WEB[0]), (await answer(sock)).decode()}
    return names <= {pod.name for pod in stage.pods} and await is_refused(stage.client, (UNSERVED_IPS[0], 80))


async def test_sigterm_lets_connections_finish_and_leaves_nothing(stage: Stage, before: str) -> None:
    async with stage.proxy(everything(stage)) as proxy:
        assert await works(stage)
        assert stage.kernel_state() != before
        async with connected(stage.client, WEB[0]) as (reader, writer):
            await name_from(reader)
            proxy.terminate()
            await eventually(lambda: is_refused(stage.client, WEB[0]), "refusals")
            assert await proxy.health() == 503
            assert await echoes(reader, writer, b"still here" * 10_000)
            writer.write_eof()
            assert await rest_of(reader) == b""
        assert await proxy.status() == 0
    assert stage.kernel_state() == before


async def test_connection_that_never_ends_is_cut_after_the_drain_timeout(stage: Stage, before: str) -> None:
    async with stage.proxy(everything(stage), "--drain-timeout", "200ms") as proxy:
        async with connected(stage.client, WEB[0]) as (reader, _):
            await name_from(reader)
            proxy.terminate()
            with pytest.raises(ConnectionResetError):
                await rest_of(reader)
        assert await proxy.status() == 0
    assert stage.kernel_state() == before


async def test_restart_after_a_kill_works_and_leaves_nothing(stage: Stage, before: str) -> None:
    async with stage.proxy(everything(stage)) as killed:
        killed.kill9()
    async with stage.proxy(everything(stage)) as proxy:
        assert await works(stage)
        proxy.terminate()
        assert await proxy.status() == 0
    assert stage.kernel_state() == before


async def test_restart_with_fewer_services_leaves_none_of_the_others(stage: Stage, before: str) -> None:
    async with stage.proxy(everything(stage)) as killed:
        killed.kill9()
    async with stage.proxy(web(stage.pods)):
        assert "172.30.0.9" not in stage.kernel_state()
        assert "30080" not in stage.kernel_state()


@pytest.mark.parametrize("capture", ["bind", "redirect-nft", "redirect-iptables", "tproxy"])
async def test_restart_with_another_capture_leaves_nothing_of_the_first(
    stage: Stage, before: str, capture: str
) -> None:
    own = stage.way
    stage.way = way(capture, "python")
    async with stage.proxy(everything(stage)) as killed:
        killed.kill9()
    stage.way = own
    async with stage.proxy(everything(stage)) as proxy:
        assert await works(stage)
        proxy.terminate()
        assert await proxy.status() == 0
    assert stage.kernel_state() == before


async def test_cleanup_removes_all_and_the_second_time_finds_nothing(stage: Stage, before: str) -> None:
    async with stage.proxy(everything(stage)) as proxy:
        proxy.kill9()
    assert stage.kernel_state() != before
    removed = stage.cleanup().splitlines()
    assert removed
    assert all(line.startswith("removed ") for line in removed)
    assert stage.kernel_state() == before
    assert stage.cleanup() == "nothing to remove\n"


@pytest.mark.parametrize("way", [way("redirect-nft", "python")], indirect=True, ids=str)
async def test_kube_proxys_flags_for_cleaning_up_and_for_trying(stage: Stage, before: str) -> None:
    tried = stage.node.run(*UPROXY, "run", "--init-only", *stage.way.flags).stdout
    assert "capture: redirect by nft" in tried
    assert stage.kernel_state() == before
    async with stage.proxy(everything(stage)) as proxy:
        proxy.kill9()
    assert "table inet uproxy" in stage.node.run(*UPROXY, "run", "--cleanup").stdout
    assert stage.kernel_state() == before


@pytest.mark.parametrize("way", [way("bind", "native-1")], indirect=True, ids=str)
async def test_healthy_only_once_everything_is_programmed(stage: Stage) -> None:
    """An `ip` that waits for a word from the test stands for a slow machine."""
    real, go = shutil.which("ip"), stage.folder / "go"
    os.mkfifo(go)
    slow = stage.folder / "ip"
    slow.write_text(f'#!/bin/sh\ncase "$*" in *-batch*) read word < {go};; esac\nexec {real} "$@"\n')
    slow.chmod(0o755)
    path = f"PATH={stage.folder}:{os.environ['PATH']}"
    async with stage.proxy(web(stage.pods), prefix=("env", path), wait_for=503) as proxy:
        go.write_text("go\n")

        async def is_healthy() -> bool:
            return await proxy.health() == 200

        await eventually(is_healthy, "health")
        assert (await ask(stage.client, WEB[0])).startswith("pod")
        slow.write_text(f'#!/bin/sh\nexec {real} "$@"\n')  # the end is not slow
        proxy.terminate()
        assert await proxy.status() == 0


async def test_second_proxy_does_not_touch_what_the_first_programmed(stage: Stage) -> None:
    async with stage.proxy(everything(stage)) as first:
        programmed = stage.kernel_state()
        others = ("--metrics-bind-address", "127.0.0.1:0", "--healthz-bind-address", "127.0.0.1:0")
        second = stage.node.run(
            *UPROXY, "run", "-f", str(stage.manifest), "--capture", "redirect", *others, check=False
        )
        assert second.returncode == 1
        assert "another uproxy programs this machine's network" in second.stderr
        with pytest.raises(CommandFailed, match="another uproxy"):
            stage.cleanup()
        assert stage.kernel_state() == programmed
        assert await works(stage)
        first.terminate()
        assert await first.status() == 0


@pytest.mark.parametrize("way", [way("bind", "native-1")], indirect=True, ids=str)
async def test_binding_beside_another_proxy_is_left_with_loopback(stage: Stage) -> None:
    async with stage.proxy(everything(stage)) as first:
        second = stage.proxy(everything(stage), metrics=("127.0.0.1", 20249), healthz=("127.0.0.1", 20256))
        async with second:
            assert "on loopback only, another uproxy programs this machine's network" in second.log
            assert (await second.row("web"))["addresses"][0].startswith("127.96.")
            assert await works(stage)
        assert await first.health() == 200
