"""What a kernel does not do, relays do without: trials tell, and every byte arrives all the same.

That a kernel of this kind is met with as it is, `tests/gvisor` shows.
"""

import asyncio
import os
import select
import socket
from pathlib import Path

import pytest

from tests.exchange import Ending, Script, Server
from tests.loop.conftest import free_port
from tests.loop.dataplane.test_relay import VIP, follow, served
from tests.loop.rig import Rig, backend, until
from uproxy.dataplane import reactor, trials
from uproxy.dataplane.relay import native_relay
from uproxy.dataplane.relay import pipes as pool

PATIENCE_S = 10


def no(*_):
    return False


def pipes() -> int:
    """Ends of pipes that this process has open."""
    names = []
    for path in Path("/proc/self/fd").iterdir():
        try:
            names.append(str(path.readlink()))
        except FileNotFoundError:
            continue  # the directory itself, as it was read
    return sum(name.startswith("pipe:") for name in names)


@pytest.fixture
def tried_anew():
    """What was found before does not count, here and afterwards."""
    for trial in (trials.tells_ends, trials.tells_failures, trials.splices_exactly):
        trial.cache_clear()
    yield
    for trial in (trials.tells_ends, trials.tells_failures, trials.splices_exactly):
        trial.cache_clear()


def test_what_linux_does_is_found(tried_anew):
    if (
        Path("/proc/version")
        .read_text()
        .startswith("Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016")
    ):
        pytest.skip("this is gVisor")
    assert trials.tells_ends()
    assert trials.tells_failures()
    assert trials.splices_exactly()


def test_ends_that_no_edge_tells_are_found_out(tried_anew, monkeypatch):
    monkeypatch.setattr(select, "EPOLLRDHUP", select.EPOLLPRI)
    assert not trials.tells_ends()


def test_failures_that_are_none_are_found_out(tried_anew, monkeypatch):
    monkeypatch.setattr(select, "EPOLLERR", select.EPOLLHUP)
    assert not trials.tells_failures()


def test_a_splice_that_repeats_bytes_is_found_out(tried_anew, monkeypatch):
    def as_in_gvisor(source, sink, count, flags=0):
        moved = os.read(source, count)
        return os.write(sink, (moved[: 64 * 1024] * 2)[: len(moved)])

    monkeypatch.setattr(os, "splice", as_in_gvisor)
    assert not trials.splices_exactly()


async def test_an_end_that_comes_with_the_last_bytes_is_passed_on_where_no_edge_tells_it(monkeypatch):
    def says_all_at_once():
        with listener.accept()[0] as connection:
            connection.send(b"hello")

    monkeypatch.setattr(reactor, "tells_ends", no)
    monkeypatch.setattr(reactor, "_EVERYTHING", reactor._EVERYTHING & ~reactor.PEER_DONE)
    rig = Rig("python")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        rig.at_close(lambda: asyncio.get_running_loop().remove_reader(listener))
        asyncio.get_running_loop().add_reader(listener, says_all_at_once)
        vip = (VIP, free_port(VIP))
        try:
            await rig.serve(vip, [backend(listener.getsockname())])
            reader, writer = await asyncio.open_connection(*vip)
            assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b"hello"
            writer.close()
        finally:
            await rig.close()


async def test_bulk_is_exact_where_splice_is_not(relay, monkeypatch):
    monkeypatch.setattr(pool, "splices_exactly", no)
    monkeypatch.setattr(native_relay, "splices_exactly", no)
    rig = Rig(relay)
    try:
        before = pipes()
        server = Server()
        vip, _ = await served(rig, server.handle)
        await follow(vip, Script(7, 3_000_000, 3_000_000, Ending.TOGETHER, slow_client=True))
        await until(lambda: rig.ended)
        assert server.failures == []
        assert pipes() == before  # those of bulk are kept for the next
    finally:
        await rig.close()
