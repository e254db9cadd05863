"""The whole proxy on another kernel than this machine's: each capture, and each handoff."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.netns.e2e.callers import all_who_answer, who_answers
from tests.netns.e2e.servers import Greeter
from tests.netns.e2e.stage import DNS, WEB, Stage, way, web
from tests.netns.handoff.test_moves import handed, until_path
from tests.proxy_process import ProxyProcess
from uproxy.kit.lab import Lab

IPVS = "ipvsadm -S -n"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


@pytest.fixture
async def stage(lab: Lab, capture: str, tmp_path: Path) -> AsyncIterator[Stage]:
    made = Stage(lab, way(capture, "native-2"), tmp_path, Greeter)
    for pod in made.pods:
        await pod.listen_tcp()
        pod.listen_udp()
    yield made
    for pod in made.pods:
        pod.kill()


@pytest.mark.parametrize("capture", ["bind", "redirect-nft", "redirect-iptables", "tproxy"])
async def test_each_capture_serves_and_leaves_nothing(stage: Stage) -> None:
    before = stage.kernel_state()
    async with stage.proxy(web(stage.pods)) as proxy:
        await all_pods_answer(stage)
        await ends(proxy)
    assert stage.kernel_state() == before


@pytest.mark.parametrize(
    ("mechanism", "capture"),
    [
        ("nftables", "redirect-nft"),
        ("nftables", "bind"),
        ("ipvs", "redirect-nft"),
        ("iptables", "redirect-iptables"),
    ],
)
async def test_each_handoff_carries_and_leaves_nothing(stage: Stage, mechanism: str) -> None:
    before = stage.kernel_state()
    async with stage.proxy(handed(web(stage.pods), "always"), "--handoff", mechanism) as proxy:
        await until_path(proxy, mechanism)
        await all_pods_answer(stage)
        assert (await proxy.row("web"))["total"] == 0, "the relay has carried none"
        assert (stage.node.run(*IPVS.split()).stdout != "") == (mechanism == "ipvs")
        await ends(proxy)
    assert stage.kernel_state() == before
    assert stage.node.run(*IPVS.split()).stdout == ""


async def all_pods_answer(stage: Stage) -> None:
    """To the client and to the node, by TCP and UDP, on both families."""
    names = frozenset(pod.name for pod in stage.pods)
    for caller in stage.callers:
        for protocol, vips in (("TCP", WEB), ("UDP", DNS)):
            for vip in vips:
                said = await all_who_answer(lambda c=caller, v=vip, p=protocol: who_answers(c, v, p), names)
                assert said == names, (caller.name, vip, protocol)


async def ends(proxy: ProxyProcess) -> None:
    proxy.terminate()
    assert await proxy.status() == 0
