"""The whole proxy, which hands a Service to IPVS."""

from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from tests.netns.e2e.callers import Load, answer, ask_often, datagrams, echoes, is_refused, name_from
from tests.netns.e2e.servers import Greeter
from tests.netns.e2e.stage import DNS, WEB, Stage, way, web
from tests.netns.handoff.test_moves import handed, until_path
from tests.proxy_process import connected, eventually
from uproxy.kit.lab import Lab

HANDOFF = ("--handoff", "ipvs")
LEFT = ("ipvsadm -S -n", "iptables-save", "ipset list -name", "ip route show table all protocol 118")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


@pytest.mark.timeout(120)
async def test_a_service_moves_there_and_back(lab: Lab, tmp_path: Path) -> None:
    stage = Stage(lab, way("redirect-iptables", "native-2"), tmp_path, Greeter)
    for pod in stage.pods:
        await pod.listen_tcp()
        pod.listen_udp()
    async with stage.proxy(handed(web(stage.pods), "never"), *HANDOFF) as proxy:
        async with Load(stage.client, WEB[0]) as outside, Load(stage.node, WEB[1]) as inside:
            for word, path in (("always", "ipvs"), ("never", "relay"), ("always", "ipvs")):
                stage.write(handed(web(stage.pods), word))
                await until_path(proxy, path)
                for load in (outside, inside):
                    await load.answered_since(monotonic(), 5)
        assert outside.errors_since() == []
        assert inside.errors_since() == []
        with datagrams(stage.client, DNS[0]) as sock:
            assert (await answer(sock)).decode() in {pod.name for pod in stage.pods}
        async with connected(stage.client, WEB[0]) as (reader, writer):
            name = await name_from(reader)
            left = [pod for pod in stage.pods if pod.name != name]
            stage.write(handed(web(left), "always"))

            async def is_gone() -> bool:
                return name not in await ask_often(stage.client, WEB[0], 4)

            await eventually(is_gone, f"no new connection to {name}")
            assert await echoes(reader, writer)
            stage.write(handed(web([]), "always"))
            await eventually(lambda: is_refused(stage.client, WEB[0]), "refused")
            assert await echoes(reader, writer)
    for pod in stage.pods:
        pod.kill()
    printed = "".join(stage.node.run(*command.split()).stdout for command in LEFT)
    assert "UPROXY" not in printed
    assert "10." not in printed
