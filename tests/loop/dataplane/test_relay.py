"""Relayed connections carry every byte, and end as both peers expect."""

import asyncio
import socket
import struct
from pathlib import Path

import pytest

from tests.exchange import Ending, Script, Server, random_script, run_client
from tests.loop.conftest import free_port
from tests.loop.rig import backend, until
from uproxy.model.closing import CloseReason

VIP = "127.96.0.1"
PIPES_KEPT_DESCRIPTORS = 2 * 32


def descriptors() -> int:
    """How many this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def served(rig, handler):
    """A server behind a VIP; returns the VIP's address."""
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    rig.at_close(server.close)
    vip = (VIP, free_port(VIP))
    await rig.serve(vip, [backend(server.sockets[0].getsockname())])
    return vip, server


async def follow(vip, script: Script) -> None:
    reader, writer = await asyncio.open_connection(*vip)
    await asyncio.wait_for(run_client(reader, writer, script), 30)


SCRIPTS = [
    pytest.param(Script(1, 0, 0, Ending.CLIENT), id="nothing at all"),
    pytest.param(Script(2, 10, 5_000_000, Ending.CLIENT), id="client half-closes, then a long answer"),
    pytest.param(Script(3, 5_000_000, 10, Ending.SERVER), id="server half-closes, then a long question"),
    pytest.param(Script(4, 9_000_000, 9_000_000, Ending.TOGETHER), id="both at once"),
    pytest.param(Script(5, 9_000_000, 9_000_000, Ending.TOGETHER, slow_client=True), id="slow client"),
    pytest.param(Script(6, 9_000_000, 9_000_000, Ending.TOGETHER, slow_server=True), id="slow server"),
]


@pytest.mark.parametrize("script", SCRIPTS)
async def test_every_byte_arrives(rig, script):
    server = Server()
    vip, _ = await served(rig, server.handle)
    await follow(vip, script)
    await until(lambda: server.served == 1 or server.failures)
    assert server.failures == []
    await until(lambda: rig.ended)
    assert rig.ended == [CloseReason.BACKEND_EOF if script.ending is Ending.SERVER else rig.ended[0]]


async def test_server_may_speak_first(rig):
    server = Server()
    vip, _ = await served(rig, server.greet)
    await follow(vip, Script(7, 100, 100, Ending.CLIENT, server_first=True))
    await until(lambda: server.served == 1)


async def test_many_random_connections_are_exact_and_leave_no_descriptor(rig):
    server = Server()
    vip, _ = await served(rig, server.handle)
    before = descriptors()
    gate = asyncio.Semaphore(40)

    async def one(seed: int) -> None:
        async with gate:
            script = random_script(seed, 2_000_000)
            await follow(vip, Script(seed, script.up, script.down, script.ending))

    await asyncio.gather(*(one(seed) for seed in range(300)))
    await until(lambda: server.served + len(server.failures) == 300)
    assert server.failures == []
    await until(lambda: len(rig.ended) == 300)
    pipes_kept = rig.descriptors.used_by_all - 1  # the listener
    assert pipes_kept <= PIPES_KEPT_DESCRIPTORS
    await until(lambda: descriptors() <= before + pipes_kept)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def test_a_reset_by_the_client_reaches_the_server(rig):
    loop = asyncio.get_running_loop()
    client, server = await rig.pair((VIP, free_port(VIP)))
    reset(client)
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(loop.sock_recv(server, 1), 10)
    await until(lambda: rig.ended)
    assert rig.ended == [CloseReason.CLIENT_RESET]
    server.close()


async def test_a_reset_by_the_server_reaches_the_client_after_what_it_said(rig):
    loop = asyncio.get_running_loop()
    client, server = await rig.pair((VIP, free_port(VIP)))
    server.send(b"last words")
    reset(server)
    assert await asyncio.wait_for(loop.sock_recv(client, 100), 10) == b"last words"
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(loop.sock_recv(client, 1), 10)
    await until(lambda: rig.ended)
    assert rig.ended == [CloseReason.BACKEND_RESET]
    client.close()


async def test_a_reset_ends_a_connection_whose_other_side_does_not_read(rig):
    client, server = await rig.pair((VIP, free_port(VIP)))
    await fill(client)
    reset(client)
    await until(lambda: rig.ended)
    assert rig.ended == [CloseReason.CLIENT_RESET]
    server.close()


async def fill(sender: socket.socket) -> int:
    """Send until the path takes no more for a while; returns the bytes that it took."""
    sent = quiet = 0
    while quiet < 40:
        try:
            sent += sender.send(bytes(65536))
            quiet = 0
        except BlockingIOError:
            quiet += 1
            await asyncio.sleep(0.005)
    return sent


async def test_a_stopped_reader_stops_the_sender_within_bounds(rig):
    client, server = await rig.pair((VIP, free_port(VIP)))
    sent = await fill(client)
    # What a direct connection takes too (the two peers' own buffers) and a little of ours.
    assert sent < 24 * 1024 * 1024
    client.close()
    server.close()


async def test_a_byte_is_not_held_back_for_more(rig):
    loop = asyncio.get_running_loop()
    client, server = await rig.pair((VIP, free_port(VIP)))
    for _ in range(50):
        client.send(b"x")
        assert await asyncio.wait_for(loop.sock_recv(server, 10), 10) == b"x"
        server.send(b"y")
        assert await asyncio.wait_for(loop.sock_recv(client, 10), 10) == b"y"
    client.close()
    server.close()
