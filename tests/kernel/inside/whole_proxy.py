"""The whole proxy on another kernel than this machine's: each capture, and each handoff.

Few starts: emulated, each takes half a minute.
"""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.netns.e2e.callers import all_who_answer, who_answers
from tests.netns.e2e.servers import Greeter
from tests.netns.e2e.stage import CLUSTER_IPS, DNS, WEB, Stage, way, web
from tests.netns.handoff.test_moves import handed, until_path
from uproxy.kit.lab import Lab


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


@pytest.mark.parametrize(
    ("capture", "mechanism"),
    [
        ("redirect-nft", "nftables"),
        ("redirect-iptables", "ipvs"),
        ("bind", "iptables"),
        ("tproxy", None),
    ],
)
async def test_relay_and_kernel_serve_and_leave_nothing(stage: Stage, mechanism: str | None) -> None:
    flags = ("--drain-timeout", "1s", *(("--handoff", mechanism) if mechanism else ()))
    async with stage.proxy(handed(web(stage.pods), "never"), *flags) as proxy:
        assert left(stage) != []
        await all_pods_answer(stage)
        if mechanism:
            stage.write(handed(web(stage.pods), "always"))
            await until_path(proxy, mechanism)
            await all_pods_answer(stage)
        proxy.terminate()
        assert await proxy.status() == 0
    assert left(stage) == []


def left(stage: Stage) -> list[str]:
    """What of ours the kernel holds. Tables that `iptables` makes when it is first called are nobody's."""
    held = stage.kernel_state() + stage.node.run("ipvsadm", "-S", "-n").stdout
    ours = ("uproxy", *CLUSTER_IPS)
    return [line for line in held.splitlines() if any(word in line.lower() for word in ours)]


async def all_pods_answer(stage: Stage) -> None:
    """To the client and to the node, by TCP and UDP, on both families."""
    names = frozenset(pod.name for pod in stage.pods)
    for caller in stage.callers:
        for protocol, vips in (("TCP", WEB), ("UDP", DNS)):
            for vip in vips:
                said = await all_who_answer(lambda c=caller, v=vip, p=protocol: who_answers(c, v, p), names)
                assert said == names, (caller.name, vip, protocol)
