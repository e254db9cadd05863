"""Crowds of connections at once, through several endpoints, against a model of what each may see.

Where `test_relay_model.py` looks at one connection closely, this looks at what connections can do to each
other: endpoints that refuse, or are slow to accept; resets of one endpoint; peers that leave without reading;
a data plane that is closed in the middle. The model of one connection:

- What a peer gets is a prefix of what the other sent; all of it, when it is told the end.
- It is told the end only when the other has finished, and is reset only when somebody cut it short.
- It has one record, with a reason that its history allows and bytes between got and sent.

And of all together: the counts are the sums of the records, and no descriptor is left.
"""

import asyncio
import os
import random
import socket
from collections import Counter

import pytest

from tests.loop.conftest import free_port
from tests.loop.dataplane.engine_rig import descriptors
from tests.loop.dataplane.test_relay_model import IN_ORDER, RESET_BY, Side
from tests.loop.rig import Rig, backend, until
from uproxy.model.closing import CloseReason

VIP = "127.96.0.7"
CROWDS = 400 if os.environ.get("UPROXY_TESTS_LONG") else 5
PEOPLE = 24
STEPS = 600
NAME_BYTES = 4
SIZES = (1, 100, 5_000, 40_000, 300_000)


class Peer(Side):
    """A side that may also leave: close its socket, with whatever it has not read."""

    def __init__(self, sock: socket.socket, seed: str) -> None:
        super().__init__(sock, seed)
        sock.setblocking(False)
        self.gone = self.deaf = self.was_rude = False

    def __str__(self) -> str:
        words = [
            word for word in ("finished", "told_end", "broken", "gone", "was_rude") if getattr(self, word)
        ]
        return f"sent {len(self.sent)} got {len(self.got)} {' '.join(words)}"

    def leave(self) -> None:
        """The kernel ends it in order, or with a reset when something is unread or comes later."""
        if not self.gone:
            self.finished = self.gone = self.was_rude = True
            self.sock.close()

    def stop_reading(self) -> None:
        """After the end of both ways the kernel answers data with a reset.

        What is there already is not read either: the kernel would not tell of the room that makes, and the
        other side waits for a minute.
        """
        if not self.gone:
            self.finish()
            self.deaf = self.was_rude = True
            try:
                self.sock.shutdown(socket.SHUT_RD)
            except OSError:
                self.broken = True

    def reset(self) -> None:
        if not self.gone:
            self.gone = self.was_rude = True
            super().reset()

    def receive(self, count: int) -> bool:
        return not self.gone and not self.deaf and super().receive(count)

    def send(self, count: int) -> None:
        if not self.gone:
            super().send(count)


def narrow(sock: socket.socket) -> None:
    """Have little room for what comes, so that the relay has to keep it."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)


class Person:
    """One connection, from the client's call on. The server's side comes when it is accepted."""

    def __init__(self, client: socket.socket, number: int, seed: str) -> None:
        self.address = client.getsockname()[0]
        self.seed = seed
        self.client = Peer(client, f"{seed} up")
        self.server: Peer | None = None
        self.endpoint: tuple[str, int] | None = None
        self.may_be_cut = False
        name = number.to_bytes(NAME_BYTES, "big")
        self.client.sent += name
        client.send(name)

    def meet(self, sock: socket.socket, endpoint: tuple[str, int]) -> None:
        assert self.server is None, "dialled twice"
        self.server = Peer(sock, f"{self.seed} down")
        self.server.got += self.client.sent[:NAME_BYTES]
        self.endpoint = endpoint

    def __str__(self) -> str:
        return ", ".join(map(str, self.peers))

    @property
    def peers(self) -> list[Peer]:
        return [self.client] if self.server is None else [self.client, self.server]

    def legal_reasons(self) -> set[CloseReason]:
        server_finished = self.server is not None and self.server.finished
        legal = set(IN_ORDER) if self.client.finished and server_finished else set()
        if any(peer.was_rude for peer in self.peers):
            legal |= set(RESET_BY)
        return legal | ({CloseReason.SHUTDOWN} if self.may_be_cut else set())

    def check_what_was_heard(self) -> None:
        if self.server is None:
            assert not self.client.got
            assert self.client.was_rude or not self.client.told_end, "an end that nobody said"
            return
        for peer, other in ((self.client, self.server), (self.server, self.client)):
            assert other.sent.startswith(peer.got), "not what was sent"
            if peer.told_end and not peer.was_rude:
                assert other.finished, "an end that nobody said"
                assert len(peer.got) == len(other.sent), "an end before all was said"
            if peer.broken and not peer.was_rude:
                assert other.was_rude or self.may_be_cut, "a reset that nobody meant"

    def check_record(self, record) -> None:
        assert record.reason in self.legal_reasons()
        got = len(self.server.got) if self.server is not None else 0
        assert got <= record.bytes_to_backend <= len(self.client.sent)
        if self.server is not None:
            assert len(self.client.got) <= record.bytes_to_client <= len(self.server.sent)
            assert record.backend is None or (str(record.backend.ip), record.backend.port) == self.endpoint


class Crowd:
    """The connections of one data plane, and what happens to them."""

    def __init__(self, rig: Rig, seed: int) -> None:
        self.rig = rig
        self.seed = seed
        self.chance = random.Random(seed)
        self.people: list[Person] = []
        self.strangers: list[tuple[socket.socket, tuple[str, int]]] = []
        """Accepted by an endpoint, and not yet known by name."""
        self.listeners: list[socket.socket] = []

    async def open(self) -> None:
        for small in (True, False, False):
            listener = socket.create_server(("127.0.0.1", 0), backlog=PEOPLE)
            if small:
                narrow(listener)
            listener.setblocking(False)
            self.rig.at_close(listener.close)
            self.listeners.append(listener)
        self.vip = (VIP, free_port(VIP))
        refusing = socket.socket()  # bound, so that nobody else can have its port, and not listening
        refusing.bind(("127.0.0.1", 0))
        self.rig.at_close(refusing.close)
        backends = [backend(place.getsockname()) for place in (*self.listeners, refusing)]
        self.port = await self.rig.serve(self.vip, backends)

    def call(self) -> None:
        number = len(self.people)
        client = socket.socket()
        if self.chance.random() < 0.5:
            narrow(client)
        client.bind((f"127.97.{self.seed % 250}.{number + 1}", 0))
        client.connect(self.vip)
        self.people.append(Person(client, number, f"{self.seed} {number}"))

    def accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return
        sock.setblocking(False)
        self.strangers.append((sock, listener.getsockname()))

    def greet(self) -> None:
        """Find out who the strangers are; some were reset before they could say."""
        waiting, self.strangers = self.strangers, []
        for sock, endpoint in waiting:
            try:
                name = sock.recv(NAME_BYTES)
            except BlockingIOError:
                self.strangers.append((sock, endpoint))
                continue
            except ConnectionResetError:
                sock.close()
                continue
            assert len(name) == NAME_BYTES, "an end before all was said"
            self.people[int.from_bytes(name, "big")].meet(sock, endpoint)

    # ---- what happens ----

    async def play(self) -> None:
        for _ in range(STEPS):
            self.step()
            if self.chance.random() < 0.3:
                await asyncio.sleep(0)

    def step(self) -> None:
        what = self.chance.random()
        if what < 0.05 and len(self.people) < PEOPLE:
            self.call()
        elif what < 0.12:
            self.accept(self.chance.choice(self.listeners))
        elif what < 0.18:
            self.greet()
        elif what < 0.185:
            self.reset_somebody()
        elif what < 0.2:
            self.rig.relay.collect()
            assert 0 <= self.port.stats.active <= len(self.people)
        elif self.people:
            self.live(self.chance.choice(self.chance.choice(self.people).peers))

    def live(self, peer: Peer) -> None:
        what = self.chance.random()
        if what < 0.5:
            peer.send(self.chance.choice(SIZES))
        elif what < 0.9:
            peer.receive(self.chance.choice((1, 1_000, 1_000_000)))
        elif what < 0.96:
            peer.finish()
        elif what < 0.98:
            peer.leave()
        elif what < 0.99:
            peer.stop_reading()
        else:
            peer.reset()

    def reset_somebody(self) -> None:
        """Everybody, or those of one endpoint; whoever is not accepted yet may be among them."""
        state = self.chance.choice([None, *self.port.states.values()])
        for person in self.people:
            person.may_be_cut |= state is None or person.endpoint in (None, state.address)
        self.rig.relay.reset(CloseReason.SHUTDOWN, state)

    # ---- the end ----

    async def drain(self) -> None:
        """Everybody finishes, and reads what is left."""
        await until(self.all_told, "the end, everywhere")

    async def cut(self) -> None:
        """The data plane is closed, and everybody hears it."""
        await until(lambda: self.port.stats.connections == len(self.people), "all were accepted")
        for person in self.people:
            person.may_be_cut = True
        await self.rig.dataplane.close()
        await until(self.all_told, "the end, everywhere")

    def all_told(self) -> bool:
        for listener in self.listeners:
            self.accept(listener)
        self.greet()
        for person in self.people:
            for peer in person.peers:
                if peer.deaf:
                    peer.leave()
                elif not peer.gone:
                    peer.finish()
                    while peer.receive(1 << 20):
                        pass
        heard = all(peer.is_over or peer.gone for person in self.people for peer in person.peers)
        return heard and len(self.rig.records) >= len(self.people)

    def check(self) -> None:
        records = {record.client: record for record in self.rig.records}
        assert len(records) == len(self.rig.records) == len(self.people), "one record each"
        for person in self.people:
            try:
                person.check_what_was_heard()
                person.check_record(records[person.address])
            except AssertionError as error:
                error.add_note(f"{records[person.address]}\n{person}")
                raise

    def check_counts(self) -> None:
        self.rig.relay.collect()
        stats, records = self.port.stats, self.rig.records
        assert (stats.connections, stats.active) == (len(self.people), 0)
        assert stats.closes == Counter(record.reason for record in records)
        assert stats.bytes_to_backend == sum(record.bytes_to_backend for record in records)
        assert stats.bytes_to_client == sum(record.bytes_to_client for record in records)
        assert {state.active for state in self.port.states.values()} == {0}
        met = Counter(person.endpoint for person in self.people if person.server is not None)
        for state in self.port.states.values():
            assert met[state.address] <= state.connections <= len(self.people)

    def __str__(self) -> str:
        told = {record.client: record.reason for record in self.rig.records}
        return "\n".join(f"{one.address} {told.get(one.address)} {one}" for one in self.people)

    def leave(self) -> None:
        for person in self.people:
            for peer in person.peers:
                peer.leave()
        for sock, _ in self.strangers:
            sock.close()


@pytest.mark.timeout(60 * 60)
async def test_crowds_follow_the_model(relay):
    before = descriptors()
    for seed in range(CROWDS):
        rig = Rig(relay)
        crowd = Crowd(rig, seed)
        try:
            await crowd.open()
            await crowd.play()
            await (crowd.cut() if seed % 2 else crowd.drain())
            crowd.check()
            crowd.check_counts()
        except BaseException as error:
            error.add_note(f"seed {seed}\n{crowd}")
            raise
        finally:
            crowd.leave()
            await rig.close()
    assert descriptors() <= before
