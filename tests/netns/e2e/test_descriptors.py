"""More connections than descriptors."""

import asyncio
from contextlib import AsyncExitStack
from time import monotonic

import pytest

from tests.netns.e2e.callers import ask, echoes, name_from
from tests.netns.e2e.stage import WEB, Stage, ways, web
from tests.proxy_process import connected, eventually

LIMIT = 600
CLIENTS = 250
"""A connection takes two descriptors, and 256 are kept for other things: they do not all fit."""


@pytest.mark.parametrize("way", ways("bind", "redirect-nft"), indirect=True, ids=str)
async def test_clients_wait_for_descriptors_and_are_served_when_others_end(stage: Stage) -> None:
    async with AsyncExitStack() as stack:
        limited = stage.proxy(web(stage.pods), prefix=("prlimit", f"--nofile={LIMIT}:{LIMIT}"))
        proxy = await stack.enter_async_context(limited)
        held = [await stack.enter_async_context(connected(stage.client, WEB[0])) for _ in range(CLIENTS)]

        async def is_paused() -> bool:
            return await proxy.metric("uproxy_accept_pauses_total") > 0

        await eventually(is_paused, "a pause")
        greetings = [asyncio.ensure_future(name_from(reader)) for reader, _ in held]
        served = int(await proxy.metric("uproxy_connections_total"))

        async def are_greeted() -> bool:
            return sum(greeting.done() for greeting in greetings) == served

        await eventually(are_greeted, f"{served} greetings")
        assert LIMIT // 4 < served < CLIENTS
        assert await cpu_share(proxy) < 0.5
        assert await proxy.metric("uproxy_connections_total") == served

        first = [place for place, greeting in enumerate(greetings) if greeting.done()]
        for place in first[1:]:
            held[place][1].close()
        assert all(name.startswith("pod") for name in await asyncio.gather(*greetings))
        assert await echoes(*held[first[0]])


BULKY = 100
MORE_THAN_BUFFERS_HOLD = bytes(8 * 1024 * 1024)


@pytest.mark.parametrize("way", ways("redirect-nft"), indirect=True, ids=str)
async def test_bulk_that_uses_up_all_descriptors_costs_no_new_connection(stage: Stage) -> None:
    """The relay's pipes take descriptors too; clients that send an echo and do not read hold them."""
    async with AsyncExitStack() as stack:
        limited = stage.proxy(web(stage.pods), prefix=("prlimit", f"--nofile={LIMIT}:{LIMIT}"))
        proxy = await stack.enter_async_context(limited)
        held = [await stack.enter_async_context(connected(stage.client, WEB[0])) for _ in range(BULKY)]
        for _, writer in held:
            writer.write(MORE_THAN_BUFFERS_HOLD)

        await until_stuck([writer for _, writer in held])
        assert await proxy.health() == 200
        asked = [asyncio.ensure_future(ask(stage.client, WEB[0])) for _ in range(20)]
        await asyncio.wait(asked, timeout=0.5, return_when=asyncio.FIRST_EXCEPTION)
        for _, writer in held:
            writer.transport.abort()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert {str(answer) for answer in answers} <= {"pod1", "pod2", "pod3"}


async def until_stuck(writers: list[asyncio.StreamWriter]) -> None:
    """Wait until no writer's bytes move any more."""
    before: list[int] = []

    async def are_stuck() -> bool:
        nonlocal before
        sizes = [writer.transport.get_write_buffer_size() for writer in writers]
        before, same = sizes, sizes == before
        return same

    await eventually(are_stuck, "writers that wait", every_s=0.3)


async def cpu_share(proxy) -> float:
    """How busy the proxy is while nothing happens but questions for its health."""
    begun_s, cpu_s = monotonic(), proxy.cpu_s()
    for _ in range(20):
        assert await proxy.health() == 200
        await asyncio.sleep(0.05)
    return (proxy.cpu_s() - cpu_s) / (monotonic() - begun_s)
