"""A bounded number of connections an endpoint, and a queue for those beyond it."""

import asyncio
import socket
import struct

import pytest

from tests.loop.conftest import free_port
from tests.loop.dataplane.options.peers import Caller, Keeper, call, turned_away
from tests.loop.dataplane.test_dialling import refusing
from tests.loop.rig import Rig, backend, until
from uproxy.dataplane.context import Timeouts
from uproxy.model.closing import CloseReason
from uproxy.model.options import Balancing, Options
from uproxy.picking.waiting import Wait

VIP = "127.96.0.11"
HASTY = Timeouts(connect_s=0.05, dial_budget_s=0.2, idle_s=3600.0, half_closed_s=3600.0)


def limited(limit: int, queue: int, **more) -> Options:
    return Options(max_connections_per_endpoint=limit, queue_max=queue, **more)


@pytest.fixture
def vip():
    return (VIP, free_port(VIP))


async def waiting(rig, vip, programmed, count: int) -> list[Caller]:
    """Clients that wait, in the order in which they came."""
    callers = []
    for _ in range(count):
        before = programmed.room.numbers[Wait.PLACE]
        callers.append(await Caller(rig, vip).connect())
        await until(lambda: programmed.room.numbers[Wait.PLACE] == before + 1)  # noqa: B023
    return callers


@pytest.mark.parametrize("policy", Balancing)
async def test_no_endpoint_gets_more_than_it_may_have(rig, vip, policy):
    servers = [Keeper(rig, name) for name in "ab"]
    options = limited(3, 100, balancing=policy)
    programmed = await rig.serve(vip, [server.backend for server in servers], options=options)
    named = [await call(rig, vip) for _ in range(6)]
    assert [len(server.connections) for server in servers] == [3, 3]
    late = await waiting(rig, vip, programmed, 5)
    for number, (_, caller) in enumerate(named[:5]):
        caller.close()
        servers["ab".index(named[number][0])].connections.pop(0).close()
        assert (await late[number].read()).decode() == named[number][0]
        assert max(len(server.connections) for server in servers) <= 3
    assert sum(programmed.room.numbers.values()) == 0


async def test_first_in_first_out_and_what_they_said_meanwhile_is_not_lost(rig, vip):
    server = Keeper(rig, "a")
    programmed = await rig.serve(vip, [server.backend], options=limited(1, 10))
    _, first = await call(rig, vip)
    callers = await waiting(rig, vip, programmed, 3)
    for number, caller in enumerate(callers):
        await caller.write(f"I am {number}".encode())
    for number, caller in enumerate(callers):
        (callers[number - 1] if number else first).close()
        server.connections[-1].close()
        assert await caller.read() == b"a"
        heard = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(server.connections[-1], 100), 10)
        assert heard == f"I am {number}".encode()
    assert len(server.connections) == 4


async def test_a_full_queue_ends_in_a_reset(rig, vip):
    server = Keeper(rig, "a")
    programmed = await rig.serve(vip, [server.backend], options=limited(1, 2))
    await call(rig, vip)
    await waiting(rig, vip, programmed, 2)
    assert await turned_away(rig, vip)
    await until(lambda: rig.ended)
    assert rig.ended == [CloseReason.QUEUE_FULL]


async def test_a_wait_has_its_bound(relay, vip):
    rig = Rig(relay, HASTY)
    server = Keeper(rig, "a")
    programmed = await rig.serve(vip, [server.backend], options=limited(1, 10))
    await call(rig, vip)
    [late] = await waiting(rig, vip, programmed, 1)
    assert await late.was_reset()
    await until(lambda: rig.ended)
    assert rig.ended == [CloseReason.QUEUE_TIMEOUT]
    assert programmed.stats.active == 1
    await rig.close()


async def test_who_is_reset_while_waiting_gives_its_place_in_the_queue_back(rig, vip):
    server = Keeper(rig, "a")
    programmed = await rig.serve(vip, [server.backend], options=limited(1, 1))
    await call(rig, vip)
    [late] = await waiting(rig, vip, programmed, 1)
    late.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    late.close()
    await until(lambda: rig.ended)
    assert rig.ended == [CloseReason.CLIENT_RESET]
    await waiting(rig, vip, programmed, 1)
    assert len(server.connections) == 1


async def test_a_failed_dial_gives_its_place_back(rig, vip):
    """The endpoint that refuses is not dialled for those who wait, while the other one is well."""
    server = Keeper(rig, "a")
    options = limited(1, 10)
    backends = [server.backend, backend(refusing())]
    programmed = await rig.serve(vip, backends, options=options)
    _, first = await call(rig, vip)
    late = await waiting(rig, vip, programmed, 3)
    assert sum(programmed.stats.dial_failures.values()) <= 2
    first.close()
    server.connections[0].close()
    assert await late[0].read() == b"a"


@pytest.mark.parametrize("change", ["another endpoint", "a higher limit", "no limit"])
async def test_a_change_of_the_service_lets_them_go_on(rig, vip, change):
    one, two = (Keeper(rig, name) for name in "ab")
    programmed = await rig.serve(vip, [one.backend], options=limited(1, 10))
    await call(rig, vip)
    [late] = await waiting(rig, vip, programmed, 1)
    backends = [one.backend, two.backend] if change == "another endpoint" else [one.backend]
    limit = {"another endpoint": 1, "a higher limit": 2, "no limit": None}[change]
    await rig.serve(vip, backends, options=Options(max_connections_per_endpoint=limit, queue_max=10))
    assert await late.read() in (b"a", b"b")


async def test_a_limit_counts_connections_that_were_there_before_it(rig, vip):
    server = Keeper(rig, "a")
    await rig.serve(vip, [server.backend])
    callers = [(await call(rig, vip))[1] for _ in range(3)]
    programmed = await rig.serve(vip, [server.backend], options=limited(2, 10))
    [late] = await waiting(rig, vip, programmed, 1)
    for number in range(2):
        callers[number].close()
        server.connections[number].close()
    assert await late.read() == b"a"


async def test_places_are_given_back_where_nobody_keeps_a_log(relay, vip):
    """Then the native relay tells Python of no end but these."""
    rig = Rig(relay, access_log=False)
    server = Keeper(rig, "a")
    await rig.serve(vip, [server.backend])
    callers = [(await call(rig, vip))[1]]
    programmed = await rig.serve(vip, [server.backend], options=limited(1, 10))
    callers += await waiting(rig, vip, programmed, 2)
    for number in range(2):
        callers[number].close()
        server.connections[number].close()
        assert await callers[number + 1].read() == b"a"
    await rig.close()


async def test_when_the_endpoints_go_nobody_waits_for_them(rig, vip):
    server = Keeper(rig, "a")
    programmed = await rig.serve(vip, [server.backend], options=limited(1, 10))
    await call(rig, vip)
    late = await waiting(rig, vip, programmed, 2)
    await rig.serve(vip, [], options=limited(1, 10))
    assert [await caller.was_reset() for caller in late] == [True, True]
    await until(lambda: len(rig.ended) == 2)
    assert rig.ended == [CloseReason.NO_ENDPOINTS] * 2


@pytest.mark.parametrize("end", ["reset", "close", "forget"])
async def test_everything_ends_and_nothing_is_left(relay, vip, end):
    rig = Rig(relay)
    server = Keeper(rig, "a")
    programmed = await rig.serve(vip, [server.backend], options=limited(1, 10))
    await call(rig, vip)
    late = await waiting(rig, vip, programmed, 3)
    assert rig.relay.open_connections == 4
    if end == "reset":
        rig.relay.reset(CloseReason.SHUTDOWN)
        assert rig.ended.count(CloseReason.SHUTDOWN) == 4
        assert rig.relay.open_connections == 0
        await until(lambda: rig.descriptors.used_by_all == 1, "the listener's is left")
    elif end == "forget":
        await rig.dataplane.make(changes := removal(programmed))
        await rig.dataplane.retire(changes)
    else:
        await rig.dataplane.close()
    assert [await caller.was_reset() for caller in late] == [True] * 3
    assert not programmed.room
    assert len(server.connections) == 1
    await rig.close()


def removal(programmed):
    from uproxy.model.frontend import Changes

    return Changes((), (programmed.desired.name,))
