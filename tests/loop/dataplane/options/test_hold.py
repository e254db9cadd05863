"""Clients of a Service without endpoints are held until one comes: scale from zero."""

import asyncio

import pytest

from tests.loop.conftest import free_port
from tests.loop.dataplane.options.peers import Caller, Keeper, call, turned_away
from tests.loop.dataplane.test_dialling import ask
from tests.loop.rig import Rig, until
from uproxy.model.closing import CloseReason
from uproxy.model.options import Options
from uproxy.picking import attempts as dialling
from uproxy.picking.waiting import Wait

VIP = "127.96.0.12"
LONG = Options(hold_s=3600.0)


@pytest.fixture
def vip():
    return (VIP, free_port(VIP))


async def held(rig, vip, programmed, count: int) -> list[Caller]:
    callers = [await Caller(rig, vip).connect() for _ in range(count)]
    await until(lambda: programmed.room.numbers[Wait.ENDPOINT] == count)
    return callers


async def test_the_first_endpoint_gets_all_who_waited_with_what_they_said(rig, vip):
    programmed = await rig.serve(vip, [], options=LONG)
    callers = await held(rig, vip, programmed, 5)
    for caller in callers:
        await caller.write(b"hello")
    server = Keeper(rig, "a")
    await rig.serve(vip, [server.backend], options=LONG)
    assert {await caller.read() for caller in callers} == {b"a"}
    loop = asyncio.get_running_loop()
    said = [await asyncio.wait_for(loop.sock_recv(one, 100), 10) for one in server.connections]
    assert said == [b"hello"] * 5
    assert not programmed.room


async def test_a_service_that_scales_to_zero_and_back(rig, vip):
    server = Keeper(rig, "a")
    await rig.serve(vip, [server.backend], options=LONG)
    await call(rig, vip)
    programmed = await rig.serve(vip, [], options=LONG)
    [late] = await held(rig, vip, programmed, 1)
    await rig.serve(vip, [server.backend], options=LONG)
    assert await late.read() == b"a"


async def test_a_time_without_endpoints_ends_in_a_reset(rig, vip):
    programmed = await rig.serve(vip, [], options=Options(hold_s=0.05))
    late = await Caller(rig, vip).connect()
    assert await late.was_reset()
    await until(lambda: rig.ended)
    assert rig.ended == [CloseReason.HOLD_TIMEOUT]
    assert (programmed.stats.active, programmed.stats.closes) == (0, {CloseReason.HOLD_TIMEOUT: 1})


async def test_no_more_are_held_than_the_limit(rig, vip, monkeypatch):
    monkeypatch.setattr(dialling, "HELD_MAX", 2)
    programmed = await rig.serve(vip, [], options=LONG)
    await held(rig, vip, programmed, 2)
    assert await turned_away(rig, vip)
    await until(lambda: rig.ended)
    assert rig.ended == [CloseReason.QUEUE_FULL]


async def test_who_waits_leaves_descriptors_for_others(relay, vip):
    rig = Rig(relay, limit=20)
    programmed = await rig.serve(vip, [], options=LONG)
    turned = [asyncio.ensure_future(turned_away(rig, vip)) for _ in range(30)]
    await until(lambda: len(rig.ended) + programmed.room.numbers[Wait.ENDPOINT] == 30)
    assert len(rig.ended) > 10
    assert set(rig.ended) == {CloseReason.QUEUE_FULL}
    assert 0 < programmed.room.numbers[Wait.ENDPOINT] < 20
    assert not rig.descriptors.paused
    rig.relay.reset(CloseReason.SHUTDOWN)
    assert all(await asyncio.gather(*turned))
    assert rig.descriptors.used_by_all == 1
    await rig.close()


async def test_more_held_than_an_endpoint_may_have_go_in_turn(rig, vip):
    options = Options(hold_s=3600.0, max_connections_per_endpoint=2)
    programmed = await rig.serve(vip, [], options=options)
    callers = await held(rig, vip, programmed, 3)
    server = Keeper(rig, "a")
    await rig.serve(vip, [server.backend], options=options)
    assert [await caller.read() for caller in callers[:2]] == [b"a", b"a"]
    callers[0].close()
    server.connections[0].close()
    assert await callers[2].read() == b"a"


async def test_when_the_service_asks_no_more_they_are_ended_and_others_refused(rig, vip):
    programmed = await rig.serve(vip, [], options=LONG)
    callers = await held(rig, vip, programmed, 2)
    await rig.serve(vip, [])
    assert [await caller.was_reset() for caller in callers] == [True, True]
    await until(lambda: len(rig.ended) == 2)
    assert rig.ended == [CloseReason.NO_ENDPOINTS] * 2
    with pytest.raises(ConnectionRefusedError):
        await ask(vip)
