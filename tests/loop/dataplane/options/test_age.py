"""Connections get so old and no older: they end in order when they are at rest, else with a reset."""

import asyncio
import time

import pytest

from tests.loop.conftest import free_port
from tests.loop.dataplane.options.peers import Caller, Keeper, call
from tests.loop.rig import PATIENCE_S, until
from uproxy.model.closing import CloseReason
from uproxy.model.options import Options

VIP = "127.96.0.14"
SHORT = Options(max_connection_age_s=0.4)
LONG = Options(max_connection_age_s=3600.0)


@pytest.fixture
def vip():
    return (VIP, free_port(VIP))


async def hear_end(sock) -> bytes:
    """What a peer hears next: nothing is an end, and a reset raises."""
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 100), PATIENCE_S)


async def test_at_rest_both_sides_see_an_orderly_end(rig, vip):
    server = Keeper(rig, "a")
    begun_s = time.monotonic()
    await rig.serve(vip, [server.backend], options=SHORT)
    _, caller = await call(rig, vip)
    assert await caller.read() == b""
    assert time.monotonic() - begun_s >= 0.9 * 0.4
    assert await hear_end(server.connections[0]) == b""
    await until(lambda: rig.ended)
    assert rig.ended == [CloseReason.MAX_AGE]


@pytest.mark.parametrize("every_s", [0.01, 3600.0], ids=["asks on", "asked once"])
async def test_one_whose_answer_is_awaited_gets_the_grace_and_is_reset(rig, vip, every_s):
    """Never an end that could be taken for the end of an answer."""
    server = Keeper(rig, "a")
    await rig.serve(vip, [server.backend], options=Options(max_connection_age_s=1.0))
    begun_s = time.monotonic()
    callers = [(await call(rig, vip))[1] for _ in range(20)]  # some have a short limit, some a long one
    asking = [asyncio.ensure_future(keep_asking(caller, every_s)) for caller in callers]
    pairs = zip(callers, asking, strict=True)
    for ended in asyncio.as_completed([was_reset(caller, task) for caller, task in pairs]):
        assert await ended
        assert time.monotonic() - begun_s >= 0.9 + 0.1
    await until(lambda: len(rig.ended) == 20)
    assert set(rig.ended) == {CloseReason.MAX_AGE}


async def was_reset(caller: Caller, asking: asyncio.Task) -> bool:
    """Whether it heard a reset: when it read, or when it wrote, since the kernel tells only once. (After an
    end in order, writing fails with EPIPE.)"""
    heard = await caller.was_reset()
    asking.cancel()
    [error] = await asyncio.gather(asking, return_exceptions=True)
    return heard or isinstance(error, ConnectionResetError)


async def keep_asking(caller: Caller, every_s: float) -> None:
    while True:
        await caller.write(b"?")
        await asyncio.sleep(every_s)


async def test_it_holds_for_connections_that_were_there_before(rig, vip):
    server = Keeper(rig, "a")
    await rig.serve(vip, [server.backend], options=LONG)
    _, caller = await call(rig, vip)
    await rig.serve(vip, [server.backend], options=SHORT)
    assert await caller.read() == b""


async def test_younger_ones_and_other_services_are_left_alone(rig, vip):
    server = Keeper(rig, "a")
    await rig.serve(vip, [server.backend])
    _, old = await call(rig, vip)
    await rig.serve(vip, [server.backend], options=LONG)
    _, young = await call(rig, vip)
    for caller, connection in zip((old, young), server.connections, strict=True):
        await caller.write(b"still here")
        assert await hear_end(connection) == b"still here"
    assert not rig.ended
