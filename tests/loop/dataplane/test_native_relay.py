"""The seam between Python and the engine: what happens when Python is late, or fails."""

import asyncio
import select
import socket
import time
from dataclasses import replace

import pytest

from tests.loop.conftest import free_port
from tests.loop.dataplane.engine_rig import descriptors, threads
from tests.loop.dataplane.test_dialling import black_hole
from tests.loop.rig import PATIENCE_S, Rig, until
from uproxy.dataplane.context import Timeouts
from uproxy.model.closing import CloseReason

pytest.importorskip("uproxy.dataplane.relay._engine", reason="no native relay")

VIP = "127.96.0.6"
HASTY = Timeouts(connect_s=0.05, dial_budget_s=60.0, idle_s=3600.0, half_closed_s=3600.0)


@pytest.fixture
async def hasty():
    """Whose dials time out soon."""
    made = Rig("native-2", HASTY)
    yield made
    await made.close()


async def connect(rig, vip, count: int) -> list[socket.socket]:
    """Clients that wait for a backend; each was accepted and is being dialled for."""
    clients = []
    for _ in range(count):
        client = socket.socket()
        client.setblocking(False)
        rig.at_close(client.close)
        await asyncio.get_running_loop().sock_connect(client, vip)
        clients.append(client)
    return clients


def block_until_reported(rig) -> None:
    """Keep the event loop from hearing what the engine has to tell, as a slow callback does."""
    ready, _, _ = select.select([rig.relay._engine.report_fd], [], [], PATIENCE_S)
    assert ready
    deadline = time.monotonic() + PATIENCE_S
    while rig.relay._engine.live():
        assert time.monotonic() < deadline


@pytest.mark.parametrize("end", ["reset", "close"])
async def test_a_failed_dial_that_python_has_not_heard_of_ends_with_all_others(hasty, end):
    """It is not dialled again once everything was to end."""
    vip = (VIP, free_port(VIP))
    programmed = await hasty.serve(vip, [black_hole(hasty) for _ in range(3)])
    before = descriptors()
    clients = await connect(hasty, vip, 5)
    await until(lambda: programmed.stats.connections == 5)
    block_until_reported(hasty)
    if end == "reset":
        hasty.relay.reset(CloseReason.SHUTDOWN)
    else:
        hasty.relay.close()
    assert hasty.relay.open_connections == 0
    assert (programmed.stats.active, sum(programmed.stats.closes.values())) == (0, 5)
    assert len(hasty.ended) == 5
    for client in clients:
        client.close()
    assert descriptors() <= before


async def test_slots_are_not_given_up_while_a_report_names_them(hasty):
    """Ends that Python hears of only after the Service is gone."""
    vip = (VIP, free_port(VIP))
    for _ in range(100):
        pairs = [await hasty.pair(vip) for _ in range(3)]
        retired = asyncio.ensure_future(hasty.forget())  # closes the peers too
        await retired
        while hasty.relay.open_connections:
            hasty.relay.collect()
        hasty.relay.collect()
        await until(lambda: len(hasty.ended) == len(pairs), "every end told")  # noqa: B023
        hasty.ended.clear()


async def test_a_callback_that_raises_harms_no_other_connection():
    failures = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: failures.append(context["exception"]))
    told = []

    def ended(record) -> None:
        told.append(record.reason)
        if len(told) == 1:
            raise ZeroDivisionError

    rig = Rig("native-2", replace(HASTY, dial_budget_s=0.2))
    rig.relay._ended = ended
    vip = (VIP, free_port(VIP))
    programmed = await rig.serve(vip, [black_hole(rig), black_hole(rig)])
    before = descriptors()
    clients = await connect(rig, vip, 5)
    await until(lambda: programmed.stats.connections == 5)
    block_until_reported(rig)
    for client in clients:
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(loop.sock_recv(client, 1), PATIENCE_S)
    assert len(told) == 5
    assert [type(failure) for failure in failures] == [ZeroDivisionError]
    for client in clients:
        client.close()
    await rig.close()
    await until(lambda: threads() == 0)
    assert descriptors() <= before
