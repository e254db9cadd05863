"""The program beside what others have in nf_tables: it works, and nothing of theirs changes by one byte."""

import errno

import pytest

from tests.netns.e2e.callers import ask, is_refused
from tests.netns.e2e.stage import WEB, Stage, way, web
from tests.netns.kernel.foreign import make, some, theirs
from tests.proxy_process import eventually

UNSERVED = "172.30.0.9"


async def refuses(stage: Stage, ip: str) -> bool:
    """Whether new connections are refused. An address that nobody has captured yet has no route."""
    try:
        return await is_refused(stage.client, (ip, 80))
    except OSError as error:
        if error.errno != errno.ENETUNREACH:
            raise
        return False


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("way", [way("redirect-nft", "native-2")], ids=str, indirect=True)
async def test_the_program_beside_others(stage: Stage, seed: int) -> None:
    """Start, a change, a crash, another start that hands over, and `cleanup`."""
    early, late = some(seed), some(seed + 100)
    names = {pod.name for pod in stage.pods}
    both = [*web(stage.pods), *web([], name="unserved", clusterIPs=[UNSERVED])]
    stage.node.inside(lambda: make(early))
    before = stage.node.inside(theirs)
    async with stage.proxy(web(stage.pods)) as proxy:
        assert await ask(stage.client, WEB[0]) in names
        stage.node.inside(lambda: make(late))
        during = stage.node.inside(theirs)
        assert len(during) > len(before)
        stage.write(both)
        await eventually(lambda: refuses(stage, UNSERVED), "the change")
        proxy.kill9()
    for one in both:
        if one["kind"] == "Service":
            one["metadata"].setdefault("annotations", {})["uproxy.dev/handoff"] = "always"
    async with stage.proxy(both, "--handoff", "nftables") as proxy:
        assert await ask(stage.client, WEB[0]) in names
        proxy.kill9()
    assert "removed nftables table inet uproxy" in stage.cleanup()
    assert stage.node.inside(theirs) == during
