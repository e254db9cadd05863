"""Datagrams: whole, from the right address, and passed on when a pod goes."""

from tests.netns.e2e.callers import LARGEST, answer, datagrams
from tests.netns.e2e.servers import WHO
from tests.netns.e2e.stage import DNS, Stage, web
from tests.proxy_process import eventually


async def test_datagram_comes_back_whole_from_the_vip(stage: Stage) -> None:
    data = bytes(range(256)) * 256
    async with stage.proxy(web(stage.pods)):
        for address in DNS:
            for caller in stage.callers:
                with datagrams(caller, address) as sock:
                    for size in (0, 1, 1400, LARGEST):
                        assert await answer(sock, data[:size]) == data[:size]


async def test_flow_of_a_removed_endpoint_moves_and_others_stay(stage: Stage) -> None:
    async with stage.proxy(web(stage.pods)) as proxy:
        with datagrams(stage.client, DNS[0]) as one, datagrams(stage.client, DNS[0]) as other:
            removed, stays = (await answer(one)).decode(), (await answer(other)).decode()
            assert removed != stays
            stage.write(web([pod for pod in stage.pods if pod.name != removed]))

            async def is_programmed() -> bool:
                return len((await proxy.row("web", "UDP"))["endpoints"]) == 4

            await eventually(is_programmed, "the removal")
            assert (await answer(one)).decode() != removed
            assert (await answer(other)).decode() == stays


async def test_pod_that_refuses_is_passed_over_without_a_loss(stage: Stage) -> None:
    stage.pods[0].refuse_udp()
    async with stage.proxy(web(stage.pods)) as proxy:
        for address in DNS:
            for caller in stage.callers:
                for _ in range(3):  # each pod has its turn
                    with datagrams(caller, address) as sock:
                        assert await answer(sock, WHO) in (b"pod2", b"pod3")
        assert await proxy.metric("uproxy_dial_failures_total", protocol="UDP", reason="refused") > 0
