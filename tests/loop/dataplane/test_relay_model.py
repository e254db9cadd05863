"""Random lives of connections, against a model: every relay delivers a prefix of what was sent, all of it
when nobody resets, and ends each connection once, for a reason that its history allows."""

import asyncio
import os
import random
import socket
import struct

import pytest

from tests.loop.conftest import free_port
from tests.loop.rig import until
from uproxy.model.closing import CloseReason

VIP = "127.96.0.5"
LIVES = 2000 if os.environ.get("UPROXY_TESTS_LONG") else 40
STEPS = 30
CLIENT, SERVER = 0, 1
RESET_BY = (CloseReason.CLIENT_RESET, CloseReason.BACKEND_RESET)
IN_ORDER = {CloseReason.CLIENT_EOF, CloseReason.BACKEND_EOF}


class Side:
    """One peer: what it sent and got, and whether it has finished, was told the end, or was reset."""

    def __init__(self, sock: socket.socket, seed: str) -> None:
        self.sock = sock
        self.bytes = random.Random(seed)
        self.sent = bytearray()
        self.got = bytearray()
        self.finished = self.told_end = self.broken = False

    def send(self, count: int) -> None:
        if self.finished or self.broken:
            return
        data = self.bytes.randbytes(count)
        try:
            self.sent += data[: self.sock.send(data)]
        except BlockingIOError:
            pass  # back-pressure
        except (ConnectionResetError, BrokenPipeError):
            self.broken = True

    def receive(self, count: int) -> bool:
        """Read once; whether there was anything new to know."""
        if self.told_end or self.broken:
            return False
        try:
            data = self.sock.recv(count)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            self.broken = True
            return True
        self.told_end = not data
        self.got += data
        return True

    def finish(self) -> None:
        if not self.finished and not self.broken:
            self.finished = True
            try:
                self.sock.shutdown(socket.SHUT_WR)
            except OSError:
                self.broken = True

    def reset(self) -> None:
        self.finished = True
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    @property
    def is_over(self) -> bool:
        return self.told_end or self.broken


class Life:
    """One connection, and everything that was done to it."""

    def __init__(self, rig, client: socket.socket, server: socket.socket, seed: int) -> None:
        self.rig = rig
        self.chance = random.Random(seed)
        self.sides = (Side(client, f"{seed} up"), Side(server, f"{seed} down"))
        self.reset_by: int | None = None
        self.cut = False
        self.both_had_finished = False

    async def play(self) -> None:
        for _ in range(STEPS):
            self.step()
            for _ in range(self.chance.randrange(4)):
                await asyncio.sleep(0)
            if self.reset_by is not None or self.cut:
                break

    def step(self) -> None:
        side = self.sides[self.chance.randrange(2)]
        what = self.chance.random()
        if what < 0.5:
            side.send(self.chance.choice((1, 100, 5_000, 40_000, 300_000)))
        elif what < 0.85:
            side.receive(self.chance.choice((1, 1_000, 1_000_000)))
        elif what < 0.94:
            side.finish()
        elif what < 0.97:
            self.note_end()
            self.reset_by = self.sides.index(side)
            side.reset()
        elif what < 0.98:
            self.note_end()
            self.cut = True
            self.rig.relay.reset(CloseReason.SHUTDOWN)

    def note_end(self) -> None:
        self.both_had_finished = all(side.finished for side in self.sides)

    async def drain(self) -> None:
        """Both finish, and read what is left."""
        left = [side for place, side in enumerate(self.sides) if place != self.reset_by]
        for side in left:
            if self.reset_by is None and not self.cut:
                side.finish()

        def all_over() -> bool:
            for side in left:
                while side.receive(1 << 20):
                    pass
            return all(side.is_over for side in left)

        await until(all_over, "the end at both sides")
        await until(lambda: self.rig.ended, "the reason")

    def check(self) -> None:
        client, server = self.sides
        assert client.sent.startswith(server.got)
        assert server.sent.startswith(client.got)
        [reason] = self.rig.ended
        assert reason in self.legal_reasons()
        if reason in IN_ORDER and self.reset_by is None and not self.cut:
            assert (server.got, client.got) == (client.sent, server.sent)
            assert not client.broken
            assert not server.broken

    def legal_reasons(self) -> set[CloseReason]:
        if self.reset_by is None and not self.cut:
            return IN_ORDER
        legal = {CloseReason.SHUTDOWN} if self.reset_by is None else {RESET_BY[self.reset_by]}
        if self.reset_by is not None:  # what the other side sends into a reset comes back as one
            legal.add(RESET_BY[1 - self.reset_by])
        return legal | IN_ORDER if self.both_had_finished else legal


@pytest.mark.timeout(60 * 60)
async def test_random_lives_follow_the_model(rig):
    before = rig.descriptors.used_by_all
    for seed in range(LIVES):
        vip = (VIP, free_port(VIP))
        client, server = await rig.pair(vip)
        life = Life(rig, client, server, seed)
        try:
            await life.play()
            await life.drain()
            life.check()
            check_counts(rig, life)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        client.close()
        server.close()
        rig.ended.clear()
        await rig.forget()
    assert rig.descriptors.used_by_all <= before + 2 * 32  # pipes kept for later


def check_counts(rig, life: Life) -> None:
    rig.relay.collect()
    [programmed] = rig.dataplane.ports.values()
    stats = programmed.stats
    assert (stats.connections, stats.active, sum(stats.closes.values())) == (1, 0, 1)
    assert [state.active for state in programmed.states.values()] == [0]
    client, server = life.sides
    assert len(server.got) <= stats.bytes_to_backend <= len(client.sent)
    assert len(client.got) <= stats.bytes_to_client <= len(server.sent)
