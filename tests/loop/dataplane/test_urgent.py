"""Urgent bytes are bytes like others: none is lost, none stops the stream, whatever the sizes around them."""

import asyncio
import random
import socket

import pytest

from tests.loop.conftest import free_port
from tests.loop.rig import PATIENCE_S

VIP = "127.96.0.9"
SCRIPTS = 40
SIZES = (0, 1, 100, 10_000, 100_000, 3_000_000)
PAUSES_S = (0, 0, 0, 0.005)


async def send_all(sock: socket.socket, steps: list[bytes | float]) -> None:
    """Pieces, of which single bytes are urgent; and pauses."""
    loop = asyncio.get_running_loop()
    for step in steps:
        if isinstance(step, float):
            await asyncio.sleep(step)
        elif len(step) == 1:
            await urgent(sock, step)
        else:
            await loop.sock_sendall(sock, step)
    sock.shutdown(socket.SHUT_WR)


async def urgent(sock: socket.socket, byte: bytes) -> None:
    while True:
        try:
            sock.send(byte, socket.MSG_OOB)
        except BlockingIOError:
            await asyncio.sleep(0.001)
        else:
            return


async def receive_all(sock: socket.socket) -> bytes:
    """Until the end; the receiver takes urgent bytes inline, as the relay sends them anyway."""
    loop = asyncio.get_running_loop()
    got = bytearray()
    while piece := await loop.sock_recv(sock, 1 << 20):
        got += piece
    return bytes(got)


def script(chance: random.Random) -> list[bytes | float]:
    steps: list[bytes | float] = []
    for _ in range(chance.randint(1, 5)):
        steps.append(chance.randbytes(chance.choice(SIZES)))
        steps.append(float(chance.choice(PAUSES_S)))
        steps.append(chance.randbytes(1))
        steps.append(float(chance.choice(PAUSES_S)))
    steps.append(chance.randbytes(chance.choice(SIZES)))
    return [step for step in steps if step]


@pytest.mark.parametrize("sender", ["client", "server"])
async def test_no_byte_is_lost_and_nothing_stalls(rig, sender):
    vip = (VIP, free_port(VIP))
    for seed in range(SCRIPTS):
        steps = script(random.Random(seed))
        client, server = await rig.pair(vip)
        source, sink = (client, server) if sender == "client" else (server, client)
        server.setblocking(False)
        async with asyncio.timeout(PATIENCE_S):
            _, got = await asyncio.gather(send_all(source, steps), receive_all(sink))
        sent = b"".join(step for step in steps if isinstance(step, bytes))
        assert len(got) == len(sent), f"seed {seed}"
        assert got == sent, f"seed {seed}"
        client.close()
        server.close()
