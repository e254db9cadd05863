"""Who gets the next connection."""

from collections import Counter

import pytest

from tests.netns.e2e.callers import ask, ask_often
from tests.netns.e2e.stage import WEB, Stage, way, web
from tests.proxy_process import eventually

AFFINITY = {"sessionAffinity": "ClientIP"}


def affinity_of(seconds: int) -> dict:
    return AFFINITY | {"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}}


async def test_every_pod_gets_its_third_of_the_connections(stage: Stage) -> None:
    async with stage.proxy(web(stage.pods)) as proxy:
        for address in WEB:
            for caller in stage.callers:
                answers = await ask_often(caller, address, 300)
                assert answers.keys() == {"pod1", "pod2", "pod3"}
                assert all(99 <= count <= 101 for count in answers.values()), answers
        row = await proxy.row("web")
        assert row["connections"]["total"] == 1200
        assert [endpoint["connections"]["total"] for endpoint in row["endpoints"]] == [200] * 6


async def test_client_stays_with_its_pod_until_that_refuses_or_goes(stage: Stage) -> None:
    by_name = {pod.name: pod for pod in stage.pods}
    async with stage.proxy(web(stage.pods, **AFFINITY)):
        (first,) = await ask_often(stage.client, WEB[0], 30)
        by_name[first].refuse_tcp()
        (second,) = await ask_often(stage.client, WEB[0], 30)
        assert second != first
        await by_name[first].listen_tcp()
        assert await ask_often(stage.client, WEB[0], 30) == Counter({second: 30})
        stage.write(web([pod for pod in stage.pods if pod.name != second], **AFFINITY))

        async def moved() -> bool:
            return await ask(stage.client, WEB[0]) != second

        await eventually(moved, "another pod")
        (third,) = await ask_often(stage.client, WEB[0], 30)
        assert third != second


@pytest.mark.parametrize("way", [way("redirect-nft", "native-1")], indirect=True, ids=str)
async def test_changed_affinity_timeout_holds_for_clients_that_are_there(stage: Stage) -> None:
    async with stage.proxy(web(stage.pods, **affinity_of(10800))):
        (first,) = await ask_often(stage.client, WEB[0], 30)
        stage.write(web(stage.pods, **affinity_of(1)))

        async def released() -> bool:
            return await ask(stage.client, WEB[0]) != first

        # Each question is a use, from which the timeout counts anew.
        await eventually(released, "another pod", every_s=1.1)
