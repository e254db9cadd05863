"""Events reach whom they are about: never the next owner of a descriptor's number."""

import asyncio
import random
import socket
import struct

from tests.loop.rig import until
from uproxy.dataplane.reactor import FAILED, Reactor

AT_ONCE = struct.pack("ii", 1, 0)
ROUNDS = 30
OPEN = 40


class Peer:
    """A socket whose other end this test has. When it fails it closes, along with another, and new ones
    take both their numbers: what a relay does."""

    def __init__(self, crowd: "Crowd") -> None:
        self._crowd = crowd
        self.mine, self.other = crowd.connect()
        self.healthy = True
        crowd.peers[self.mine.fileno()] = self
        crowd.reactor.watch(self.mine.fileno(), self)

    def on_events(self, events: int) -> None:
        if events & FAILED:
            assert not self.healthy, "told of another's failure"
            self._crowd.replace(self)

    def fail(self) -> None:
        self.healthy = False
        self.other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        self.other.close()

    def close(self) -> None:
        del self._crowd.peers[self.mine.fileno()]
        self._crowd.reactor.forget(self.mine.fileno())
        self.mine.close()
        self.other.close()


class Crowd:
    def __init__(self, reactor: Reactor, seed: int) -> None:
        self.reactor = reactor
        self.chance = random.Random(seed)
        self.peers: dict[int, Peer] = {}
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=OPEN)

    def connect(self) -> tuple[socket.socket, socket.socket]:
        other = socket.create_connection(self._listener.getsockname())
        mine, _ = self._listener.accept()
        mine.setblocking(False)
        return mine, other

    def replace(self, failed: Peer) -> None:
        """Close it and another one that failed, whose event may be waiting; as many come in their place."""
        others = [peer for peer in self.peers.values() if not peer.healthy and peer is not failed]
        closed = [failed, *others[:1]]
        for peer in closed:
            peer.close()
        for _ in closed:
            Peer(self)

    def close(self) -> None:
        for peer in list(self.peers.values()):
            peer.close()
        self._listener.close()


async def test_events_of_a_closed_descriptor_are_not_the_next_owners():
    loop = asyncio.get_running_loop()
    complaints: list[object] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context.get("exception")))
    reactor = Reactor(loop)
    crowd = Crowd(reactor, 1)
    try:
        for _ in range(OPEN):
            Peer(crowd)
        for _ in range(ROUNDS):
            for peer in crowd.chance.sample(list(crowd.peers.values()), OPEN // 2):
                peer.fail()
            await until(lambda: complaints or all(peer.healthy for peer in crowd.peers.values()))
        assert complaints == []
    finally:
        crowd.close()
        reactor.close()
