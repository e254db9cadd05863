"""Endpoints that come, go, die and vanish, with and without clients who are at work."""

import asyncio
import socket
from contextlib import AsyncExitStack
from time import monotonic

from tests.netns.e2e.callers import (
    Load,
    answer,
    ask,
    connected,
    datagram_is_refused,
    datagrams,
    echoes,
    is_refused,
    name_from,
    retransmits,
)
from tests.netns.e2e.stage import DNS, WEB, Stage, web
from tests.proxy_process import PATIENCE_S, eventually, nonblocking

LIVE_WITHIN_S = 1.0
ENOUGH = 60
"""Connections from which it can be seen who gets them."""


async def everybody_is_refused(stage: Stage) -> bool:
    """Whether all callers are refused at once at all VIPs."""
    for caller in stage.callers:
        for web_vip, dns_vip in zip(WEB, DNS, strict=True):
            if not (await is_refused(caller, web_vip) and await datagram_is_refused(caller, dns_vip)):
                return False
    return True


async def everybody_is_answered(stage: Stage) -> bool:
    """Whether all callers get an answer at all VIPs."""
    try:
        for caller in stage.callers:
            for web_vip, dns_vip in zip(WEB, DNS, strict=True):
                await ask(caller, web_vip)
                with datagrams(caller, dns_vip) as sock:
                    await answer(sock)
    except ConnectionRefusedError:
        return False
    return True


async def test_service_without_endpoints_refuses_until_one_comes(stage: Stage) -> None:
    async with stage.proxy(web([])) as proxy:
        assert await everybody_is_refused(stage)
        assert (await proxy.row("web"))["status"] == "no-endpoints"
        stage.write(web(stage.pods[:1]))
        await eventually(lambda: everybody_is_answered(stage), "answers")
        stage.write(web([]))
        await eventually(lambda: everybody_is_refused(stage), "refusals")


async def test_who_got_no_answer_is_let_in_when_it_asks_again(stage: Stage) -> None:
    """That is what DROP is for, where REJECT would send a client away for good."""
    elsewhere = web(stage.pods, internalTrafficPolicy="Local")
    loop = asyncio.get_running_loop()
    async with stage.proxy(elsewhere, "--hostname-override", "node-1"), AsyncExitStack() as stack:
        connecting = []
        for caller in stage.callers:
            for address in WEB:
                stream = stack.enter_context(nonblocking(caller, address, socket.SOCK_STREAM))
                connecting.append((stream, asyncio.ensure_future(loop.sock_connect(stream, address))))

        async def all_ask_again() -> bool:
            assert not any(task.done() for _, task in connecting)
            return all(retransmits(stream) > 0 for stream, _ in connecting)

        await eventually(all_ask_again, "second tries")
        stage.write(web(stage.pods))
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(task for _, task in connecting))


async def test_killed_pod_costs_no_new_connection(stage: Stage) -> None:
    async with stage.proxy(web(stage.pods)), Load(stage.client, WEB[0]) as load:
        stage.pods[2].kill()
        killed_s = monotonic()
        answers = await load.answered_since(killed_s, ENOUGH)
        assert load.errors_since(killed_s) == []
        assert answers.keys() == {"pod1", "pod2"}


async def test_pod_that_vanishes_from_the_network_costs_no_new_connection(stage: Stage) -> None:
    flags = ("--connect-timeout", "300ms")
    async with stage.proxy(web(stage.pods), *flags) as proxy, Load(stage.client, WEB[0]) as load:
        stage.node.run("ip", "link", "set", "pod3", "down")
        vanished_s = monotonic()
        answers = await load.answered_since(vanished_s, ENOUGH)

        async def was_dialled() -> bool:
            return await proxy.metric("uproxy_dial_failures_total", reason="timeout") > 0

        await eventually(was_dialled, "a dial that timed out")
        assert load.errors_since(vanished_s) == []
        assert answers.keys() == {"pod1", "pod2"}


async def test_edits_under_load_are_live_within_a_second_and_cost_nobody_anything(stage: Stage) -> None:
    stays, goes, comes = stage.pods
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(stage.proxy(web([stays, goes])))
        long_lived = [await stack.enter_async_context(connected(stage.client, WEB[0])) for _ in range(4)]
        assert {await name_from(reader) for reader, _ in long_lived} == {stays.name, goes.name}
        load = await stack.enter_async_context(Load(stage.client, WEB[0]))

        stage.write(web([stays, goes, comes]))
        live_s = monotonic() + LIVE_WITHIN_S
        assert comes.name in await load.answered_since(live_s, ENOUGH)

        stage.write(web([stays, comes]))
        live_s = monotonic() + LIVE_WITHIN_S
        assert goes.name not in await load.answered_since(live_s, ENOUGH)

        assert load.errors_since() == []
        for reader, writer in long_lived:
            assert await echoes(reader, writer)


async def test_more_connections_than_local_ports(stage: Stage) -> None:
    # The proxy is the first to close towards the pod, so every port rests for a minute.
    stage.node.sysctl("net.ipv4.ip_local_port_range", "20000 20049")
    stage.node.sysctl("net.ipv4.tcp_tw_reuse", 0)
    async with stage.proxy(web(stage.pods[:1])) as proxy:
        names = [await ask(stage.client, WEB[0]) for _ in range(200)]
        assert names == ["pod1"] * 200
        assert await proxy.metric("uproxy_dial_failures_total") == 0
