"""Connections of an endpoint that is removed: left, reset, or reset after a while."""

import asyncio

import pytest

from tests.loop.conftest import free_port
from tests.loop.dataplane.options.peers import Keeper, call
from tests.loop.rig import until
from uproxy.model.closing import CloseReason
from uproxy.model.options import Options

VIP = "127.96.0.10"
RESET = Options(removed_drain_s=0.0)
SOON = Options(removed_drain_s=0.1)
LATE = Options(removed_drain_s=3600.0)


@pytest.fixture
def vip():
    return (VIP, free_port(VIP))


async def two_connections(rig, vip, options):
    """Servers a and b, and a client of each by its name."""
    servers = [Keeper(rig, name) for name in "ab"]
    await rig.serve(vip, [server.backend for server in servers], options=options)
    callers = dict([await call(rig, vip) for _ in range(2)])
    assert sorted(callers) == ["a", "b"]
    return servers, callers


async def lives(server, caller) -> bool:
    await caller.write(b"alive")
    [connection] = server.connections
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(connection, 100), 10) == b"alive"


@pytest.mark.parametrize("options", [RESET, SOON], ids=["reset", "drain"])
@pytest.mark.parametrize("listed", [False, True], ids=["not listed", "listed as ended"])
async def test_a_removed_endpoint_loses_its_connections_and_no_other_does(rig, vip, options, listed):
    (a, b), callers = await two_connections(rig, vip, options)
    await rig.serve(vip, [b.backend], options=options, gone=[a.backend] if listed else [])
    assert await callers["a"].was_reset()
    await until(lambda: rig.ended)
    assert rig.ended == [CloseReason.ENDPOINT_REMOVED]
    assert await lives(b, callers["b"])


@pytest.mark.parametrize("options", [Options(), LATE], ids=["leave", "drain"])
async def test_until_then_they_are_left_alone(rig, vip, options):
    (a, b), callers = await two_connections(rig, vip, options)
    await rig.serve(vip, [b.backend], options=options)
    assert await lives(a, callers["a"])
    assert not rig.ended


async def test_an_endpoint_that_comes_back_in_time_keeps_them(rig, vip):
    (a, b), callers = await two_connections(rig, vip, LATE)
    programmed = await rig.serve(vip, [b.backend], options=LATE)
    assert len(programmed.removed_since_s) == 1
    await rig.serve(vip, [a.backend, b.backend], options=LATE)
    assert programmed.removed_since_s == {}
    await rig.serve(vip, [a.backend, b.backend], options=RESET)  # nobody is removed
    assert await lives(a, callers["a"])
    rig.relay.collect()
    assert [state.active for state in programmed.states.values()] == [1, 1]


async def test_the_time_counts_from_the_removal_not_from_later_changes(rig, vip):
    (a, b), callers = await two_connections(rig, vip, LATE)
    programmed = await rig.serve(vip, [b.backend], options=LATE)
    [since_s] = programmed.removed_since_s.values()
    await rig.serve(vip, [], options=LATE)
    assert since_s in programmed.removed_since_s.values()
    assert await lives(a, callers["a"])


async def test_a_shorter_time_holds_for_those_that_are_removed_already(rig, vip):
    (_, b), callers = await two_connections(rig, vip, Options())
    await rig.serve(vip, [b.backend], options=Options())
    await rig.serve(vip, [b.backend], options=RESET)
    assert await callers["a"].was_reset()


async def test_a_service_that_asks_no_more_leaves_them(rig, vip):
    (a, b), callers = await two_connections(rig, vip, LATE)
    await rig.serve(vip, [b.backend], options=LATE)
    await rig.serve(vip, [b.backend], options=Options())
    assert not rig.dataplane._removals._deadlines
    assert await lives(a, callers["a"])
