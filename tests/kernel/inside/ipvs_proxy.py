"""The whole proxy, which hands a Service to IPVS."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.netns.e2e.callers import answer, ask_often, datagrams, echoes, is_refused, name_from
from tests.netns.e2e.servers import Greeter
from tests.netns.e2e.stage import DNS, WEB, Stage, way, web
from tests.netns.handoff.test_moves import handed, move_to_and_fro, until_path
from tests.proxy_process import connected, eventually
from uproxy.kit.lab import Lab

HANDOFF = ("--handoff", "ipvs")
AT_ONCE = 20
"""Connections with data under way: some thousand echoes a second are all that this kernel does."""
LEFT = ("ipvsadm -S -n", "iptables-save", "ipset list -name", "ip route show table all protocol 118")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


@pytest.fixture
async def stage(lab: Lab, tmp_path: Path) -> AsyncIterator[Stage]:
    made = Stage(lab, way("redirect-iptables", "native-2"), tmp_path, Greeter)
    for pod in made.pods:
        await pod.listen_tcp()
        pod.listen_udp()
    yield made
    for pod in made.pods:
        pod.kill()


@pytest.mark.timeout(400)
async def test_a_service_moves_there_and_back(stage: Stage, tell: Callable[[str], None]) -> None:
    async with stage.proxy(handed(web(stage.pods), "never"), *HANDOFF) as proxy:
        tell(await move_to_and_fro(stage, proxy, "ipvs", AT_ONCE, calls=3))
        stage.write(handed(web(stage.pods), "always"))
        await until_path(proxy, "ipvs")
        with datagrams(stage.client, DNS[0]) as sock:
            assert (await answer(sock)).decode() in {pod.name for pod in stage.pods}
        async with connected(stage.client, WEB[0]) as (reader, writer):
            name = await name_from(reader)
            stage.write(handed(web([pod for pod in stage.pods if pod.name != name]), "always"))

            async def is_gone() -> bool:
                return name not in await ask_often(stage.client, WEB[0], 4)

            await eventually(is_gone, f"no new connection to {name}")
            assert await echoes(reader, writer)
            stage.write(handed(web([]), "always"))
            await eventually(lambda: is_refused(stage.client, WEB[0]), "refused")
            assert await echoes(reader, writer)
        proxy.terminate()
        assert await proxy.status() == 0
    printed = "".join(stage.node.run(*command.split()).stdout for command in LEFT)
    assert "UPROXY" not in printed
    assert "10." not in printed
