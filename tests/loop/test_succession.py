"""What an earlier and a later process say to each other, and what becomes of it when one of them is gone."""

import asyncio
import os
import socket

import pytest

from tests.loop.rig import until
from uproxy.app import succession
from uproxy.app.succession import Turn
from uproxy.steering import lock as lock_module
from uproxy.steering.lock import knock


@pytest.fixture(autouse=True)
def own_name(monkeypatch, request):
    """A lock that no other test, and no uproxy of this machine, has."""
    monkeypatch.setattr(lock_module, "_netfilter", lambda number: None)  # which takes root
    monkeypatch.setattr(lock_module, "_claims", set)
    monkeypatch.setattr(lock_module, "_NAME", f"\0uproxy-test/{os.getpid()}/{request.node.name}"[:100])


@pytest.fixture
def known() -> asyncio.Event:
    """Whether the later process knows all objects."""
    made = asyncio.Event()
    made.set()
    return made


@pytest.fixture
def unknown(known) -> asyncio.Event:
    """The same, while it does not."""
    known.clear()
    return known


@pytest.fixture
async def earlier():
    turn = Turn()
    assert turn.try_lock()
    yield turn
    turn.release()


@pytest.fixture
async def later(known):
    turn = Turn()
    coming = asyncio.ensure_future(turn.comes(known))
    await asyncio.sleep(0)
    yield turn
    coming.cancel()
    await asyncio.gather(coming, return_exceptions=True)
    await turn.serves()
    turn.release()


async def test_one_goes_on_in_the_others_place(earlier, later):
    assert not later.is_ours
    taking = asyncio.ensure_future((await earlier.successor()).takes_over())
    await until(lambda: later.follows)
    assert later.is_ours
    assert not earlier.is_ours
    assert not taking.done()
    await later.serves()
    assert await taking
    assert not earlier.try_lock()


async def test_nobody_waits(earlier):
    assert await earlier.successor() is None


async def test_one_that_does_not_know_all_objects_is_waited_for(earlier, unknown, later):
    asyncio.get_running_loop().call_later(0.1, unknown.set)
    successor = await earlier.successor()
    assert successor is not None
    successor.close()


async def test_but_not_for_ever(earlier, unknown, later, monkeypatch):
    monkeypatch.setattr(succession, "_READY_WITHIN_S", 0.1)
    assert await earlier.successor() is None
    earlier.release()
    await until(lambda: later.is_ours)
    assert not later.follows


async def test_one_that_ends_unasked_is_followed_too(earlier, later):
    earlier.release()  # and the kernel closes what it had
    await until(lambda: later.is_ours)
    assert not later.follows


async def test_one_that_fails_after_it_was_told_leaves_the_lock_to_the_earlier(earlier):
    visitor = knock()
    await asyncio.get_running_loop().sock_sendall(visitor, b"r")
    taking = asyncio.ensure_future((await earlier.successor()).takes_over())
    assert await asyncio.get_running_loop().sock_recv(visitor, 1) == b"g"
    visitor.close()
    assert not await taking
    assert earlier.try_lock()


async def test_one_that_never_says_that_it_serves_is_given_up(earlier, later, monkeypatch):
    monkeypatch.setattr(succession, "_SERVING_WITHIN_S", 0.1)
    assert not await (await earlier.successor()).takes_over()
    assert not earlier.try_lock()  # it has not ended


async def test_of_two_that_wait_one_goes_on_and_the_other_waits_for_that(earlier, later, known):
    third = Turn()
    coming = asyncio.ensure_future(third.comes(known))
    await asyncio.sleep(0)
    taking = asyncio.ensure_future((await earlier.successor()).takes_over())
    await until(lambda: later.is_ours or third.is_ours)
    first, second = (later, third) if later.is_ours else (third, later)
    await first.serves()
    assert await taking
    await asyncio.sleep(0.5)  # it has noticed, and waits at the new one's lock
    taking = asyncio.ensure_future((await first.successor()).takes_over())
    await until(lambda: second.is_ours)
    await second.serves()
    assert await taking
    coming.cancel()
    third.release()


async def test_a_name_at_which_nobody_listens_holds_nobody_up(known):
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(f"{lock_module._NAME}/000000")
        turn = Turn()
        await turn.comes(known)
        assert turn.is_ours
        turn.release()


async def test_any_number_may_come_and_go(earlier):
    for _ in range(50):
        visitor = knock()
        await asyncio.get_running_loop().sock_sendall(visitor, b"r")
        visitor.close()
        await asyncio.sleep(0.001)
    assert len(earlier._visitors) <= 1
    assert await earlier.successor() is None
