"""Connections find a backend that takes them, or end with the right reason."""

import asyncio
import socket
import time
from collections import Counter

import pytest

from tests.loop.conftest import free_port
from tests.loop.rig import PATIENCE_S, Rig, backend, until
from uproxy.dataplane.context import Timeouts
from uproxy.model.closing import CloseReason, DialFailure

VIP = "127.96.0.2"


class Named:
    """A server that answers with its name, once for each connection."""

    def __init__(self, rig, name: str) -> None:
        self.name = name
        self._rig = rig

    async def start(self, port: int = 0):
        async def answer(_reader, writer):
            writer.write(self.name.encode())
            writer.close()

        self.server = await asyncio.start_server(answer, "127.0.0.1", port)
        self._rig.at_close(self.server.close)
        self.backend = backend(self.server.sockets[0].getsockname())
        return self

    def stop(self) -> None:
        self.server.close()


async def ask(vip) -> str:
    reader, writer = await asyncio.open_connection(*vip)
    try:
        return (await asyncio.wait_for(reader.read(), 10)).decode()
    finally:
        writer.close()


async def ask_many(vip, count: int) -> Counter:
    return Counter([await ask(vip) for _ in range(count)])


def refusing() -> tuple[str, int]:
    return ("127.0.0.1", free_port())


def black_hole(rig):
    """A listener whose backlog is full: the kernel drops further handshakes."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    fillers = []
    for _ in range(3):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
        fillers.append(filler)
    rig.at_close(lambda: [sock.close() for sock in (listener, *fillers)])
    return backend(listener.getsockname())


async def test_round_robin_over_three(rig):
    servers = [await Named(rig, name).start() for name in "abc"]
    vip = (VIP, free_port(VIP))
    await rig.serve(vip, [server.backend for server in servers])
    assert await ask_many(vip, 30) == {"a": 10, "b": 10, "c": 10}


async def test_a_refused_dial_goes_on_to_the_next_backend_unnoticed(rig):
    server = await Named(rig, "a").start()
    vip = (VIP, free_port(VIP))
    programmed = await rig.serve(vip, [backend(refusing()), server.backend])
    assert await ask_many(vip, 10) == {"a": 10}
    # The one that refused sits out, so it was asked once or twice, not at every turn.
    assert programmed.stats.dial_failures[DialFailure.REFUSED] <= 2


async def test_a_dial_that_times_out_goes_on_too(relay):
    rig = Rig(relay, Timeouts(connect_s=0.05, dial_budget_s=5.0, idle_s=3600.0, half_closed_s=3600.0))
    server = await Named(rig, "a").start()
    vip = (VIP, free_port(VIP))
    programmed = await rig.serve(vip, [black_hole(rig), server.backend])
    assert await ask_many(vip, 4) == {"a": 4}
    assert programmed.stats.dial_failures == {DialFailure.TIMEOUT: 1}
    await rig.close()


async def test_the_only_endpoint_is_dialled_for_as_long_as_the_budget_lasts(relay):
    connect_s = 0.05
    rig = Rig(relay, Timeouts(connect_s, dial_budget_s=10.0, idle_s=3600.0, half_closed_s=3600.0))
    vip = (VIP, free_port(VIP))
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    fillers = [socket.create_connection(listener.getsockname())]
    programmed = await rig.serve(vip, [backend(listener.getsockname())])
    asked = asyncio.ensure_future(ask(vip))
    begun_s = time.monotonic()
    await until(lambda: time.monotonic() > begun_s + 4 * connect_s)
    assert not asked.done()
    fillers.append(listener.accept()[0])  # room for the next SYN, which the kernel sends after a second
    listener.setblocking(False)
    server, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(listener), PATIENCE_S)
    server.send(b"in the end")
    server.close()
    assert await asked == "in the end"
    assert programmed.stats.dial_failures == {}
    for sock in (listener, *fillers):
        sock.close()
    await rig.close()


async def test_a_slow_dial_does_not_hold_others_up(relay):
    rig = Rig(relay, Timeouts(connect_s=60.0, dial_budget_s=60.0, idle_s=3600.0, half_closed_s=3600.0))
    server = await Named(rig, "a").start()
    vip = (VIP, free_port(VIP))
    programmed = await rig.serve(vip, [black_hole(rig), server.backend])
    balancer = programmed.route(programmed.desired.frontends[0], 0.0).balancer
    balancer.policy._next = 0
    stuck = asyncio.ensure_future(ask(vip))
    await until(lambda: programmed.stats.connections == 1)
    balancer.policy._next = 1
    assert await ask(vip) == "a"
    assert not stuck.done()
    stuck.cancel()
    await asyncio.gather(stuck, return_exceptions=True)
    await rig.close()


async def test_when_all_refuse_the_client_is_reset(rig):
    vip = (VIP, free_port(VIP))
    programmed = await rig.serve(vip, [backend(refusing()), backend(refusing())])
    with pytest.raises(ConnectionResetError):
        await ask(vip)
    await until(lambda: rig.ended)
    assert rig.ended == [CloseReason.DIAL_FAILED]
    assert programmed.stats.dial_failures == {DialFailure.REFUSED: 2}
    assert programmed.stats.active == 0


async def test_without_backends_nobody_listens(rig):
    server = await Named(rig, "a").start()
    vip = (VIP, free_port(VIP))
    await rig.serve(vip, [server.backend])
    assert await ask(vip) == "a"
    await rig.serve(vip, [])
    with pytest.raises(ConnectionRefusedError):
        await ask(vip)
    await rig.serve(vip, [server.backend])
    assert await ask(vip) == "a"


async def test_a_backend_that_comes_back_is_used_again(rig):
    one, two = [await Named(rig, name).start() for name in "ab"]
    vip = (VIP, free_port(VIP))
    programmed = await rig.serve(vip, [one.backend, two.backend])
    port = one.backend.port
    one.stop()
    assert await ask_many(vip, 6) == {"b": 6}
    await Named(rig, "a").start(port)
    programmed.states[one.backend].sits_out_until_s = 0.5  # its time is up
    assert await ask_many(vip, 6) == {"a": 3, "b": 3}


async def test_changing_backends_leaves_open_connections_alone(rig):
    loop = asyncio.get_running_loop()
    other = await Named(rig, "other").start()
    vip = (VIP, free_port(VIP))
    client, server = await rig.pair(vip)
    await rig.serve(vip, [other.backend])
    assert await ask(vip) == "other"
    await loop.sock_sendall(client, b"still here")
    assert await loop.sock_recv(server, 100) == b"still here"


async def test_affinity_keeps_a_client_until_its_backend_refuses(rig):
    servers = [await Named(rig, name).start() for name in "abc"]
    vip = (VIP, free_port(VIP))
    await rig.serve(vip, [server.backend for server in servers], affinity_timeout_s=100)
    [(first, count)] = (await ask_many(vip, 6)).items()
    assert count == 6
    next(server for server in servers if server.name == first).stop()
    [(second, count)] = (await ask_many(vip, 6)).items()
    assert (second != first, count) == (True, 6)


class TestTimeouts:
    async def test_an_idle_connection_is_ended(self, relay):
        rig = Rig(relay, Timeouts(connect_s=1.0, dial_budget_s=1.0, idle_s=0.05, half_closed_s=3600.0))
        client, _ = await rig.pair((VIP, free_port(VIP)))
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 1), 10)
        await until(lambda: rig.ended)
        assert rig.ended == [CloseReason.IDLE_TIMEOUT]
        await rig.close()

    async def test_a_half_closed_connection_is_ended_sooner(self, relay):
        rig = Rig(relay, Timeouts(connect_s=1.0, dial_budget_s=1.0, idle_s=3600.0, half_closed_s=0.05))
        client, _ = await rig.pair((VIP, free_port(VIP)))
        client.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 1), 10)
        await until(lambda: rig.ended)
        assert rig.ended == [CloseReason.HALF_CLOSED_TIMEOUT]
        await rig.close()


class TestDescriptors:
    async def test_out_of_descriptors_pauses_and_resumes(self, relay):
        rig = Rig(relay, limit=1 + 2 * 3)
        loop = asyncio.get_running_loop()
        listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        listener.setblocking(False)
        rig.at_close(listener.close)
        vip = (VIP, free_port(VIP))
        programmed = await rig.serve(vip, [backend(listener.getsockname())])
        clients = []
        for _ in range(5):
            client = socket.socket()
            client.setblocking(False)
            await loop.sock_connect(client, vip)
            clients.append(client)
        await until(lambda: rig.descriptors.paused)
        assert programmed.stats.connections == 3
        assert rig.descriptors.pauses == 1
        for client in clients[:3]:
            client.close()
        servers = [(await loop.sock_accept(listener))[0] for _ in range(3)]
        for server in servers:
            server.close()
        await until(lambda: programmed.stats.connections == 5, "the two that waited")
        for client in clients:
            client.close()
        await rig.close()


async def test_stopping_refuses_new_connections_and_lets_old_ones_end(rig):
    vip = (VIP, free_port(VIP))
    client, server = await rig.pair(vip)
    rig.dataplane.stop_accepting()
    with pytest.raises(ConnectionRefusedError):
        await ask(vip)
    assert await rig.dataplane.drain(0.05) == 1
    client.close()
    server.close()
    assert await rig.dataplane.drain(10.0) == 0


async def test_a_listener_that_cannot_open_is_a_problem_of_that_address_alone(rig):
    taken = socket.create_server((VIP, 0))
    server = await Named(rig, "a").start()
    with pytest.raises(AssertionError, match="cannot listen: address already in use"):
        await rig.serve(taken.getsockname(), [server.backend])
    taken.close()
    await rig.serve(taken_address := (VIP, free_port(VIP)), [server.backend])
    assert await ask(taken_address) == "a"
