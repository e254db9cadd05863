"""More connections than descriptors."""

import asyncio
from contextlib import AsyncExitStack
from time import monotonic

import pytest

from tests.netns.e2e.callers import echoes, name_from
from tests.netns.e2e.stage import BIND, REDIRECT_NFT, WEB, Stage, web
from tests.proxy_process import connected, eventually

LIMIT = 600
CLIENTS = 250
"""A connection takes two descriptors, and 256 are kept for other things: they do not all fit."""


@pytest.mark.parametrize("capture", [BIND, REDIRECT_NFT], indirect=True, ids=lambda capture: capture.name)
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


async def cpu_share(proxy) -> float:
    """How busy the proxy is while nothing happens but questions for its health."""
    begun_s, cpu_s = monotonic(), proxy.cpu_s()
    for _ in range(20):
        assert await proxy.health() == 200
        await asyncio.sleep(0.05)
    return (proxy.cpu_s() - cpu_s) / (monotonic() - begun_s)
