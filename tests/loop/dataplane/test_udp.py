"""Datagrams reach a backend, and answers come back from the address that was asked."""

import asyncio
import socket

import pytest

from tests.loop.conftest import free_port
from tests.loop.rig import Rig, backend, until
from uproxy.model.names import Protocol

VIP = "127.96.0.3"


class UdpServer:
    """Answers each datagram with its name and what it got."""

    def __init__(self, rig, name: str) -> None:
        self.name = name.encode()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.socket.bind(("127.0.0.1", 0))
        self.backend = backend(self.socket.getsockname())
        self.peers: set = set()
        loop = asyncio.get_running_loop()
        loop.add_reader(self.socket, self._answer)
        rig.at_close(self.stop)

    def _answer(self) -> None:
        data, peer = self.socket.recvfrom(65536)
        self.peers.add(peer)
        self.socket.sendto((self.name + b":" + data)[:65507], peer)

    def stop(self) -> None:
        if self.socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self.socket)
            self.socket.close()


class UdpClient:
    def __init__(self, rig, vip) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.socket.connect(vip)  # so that only answers from the VIP itself are taken
        rig.at_close(self.socket.close)

    async def ask(self, data: bytes = b"?") -> bytes:
        self.socket.send(data)
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.socket, 65536), 10)


@pytest.fixture
def vip() -> tuple[str, int]:
    return (VIP, free_port(VIP, socket.SOCK_DGRAM))


async def serve(rig, vip, *servers):
    return await rig.serve(vip, [server.backend for server in servers], Protocol.UDP)


@pytest.mark.parametrize("size", [0, 1, 1400, 65_000])
async def test_datagrams_of_every_size(rig, vip, size):
    await serve(rig, vip, UdpServer(rig, "a"))
    assert await UdpClient(rig, vip).ask(bytes(size)) == b"a:" + bytes(size)


async def test_the_largest_datagram(rig, vip):
    await serve(rig, vip, UdpServer(rig, ""))
    assert await UdpClient(rig, vip).ask(bytes(65_507)) == (b":" + bytes(65_507))[:65_507]


async def test_clients_are_spread_and_a_client_stays(rig, vip):
    await serve(rig, vip, *(UdpServer(rig, name) for name in "abc"))
    clients = [UdpClient(rig, vip) for _ in range(6)]
    first = [await client.ask() for client in clients]
    again = [await client.ask() for client in clients]
    assert sorted(first) == [b"a:?"] * 2 + [b"b:?"] * 2 + [b"c:?"] * 2
    assert again == first


async def test_a_flow_of_a_removed_backend_moves_at_once(rig, vip):
    one, two = UdpServer(rig, "a"), UdpServer(rig, "b")
    programmed = await serve(rig, vip, one)
    client = UdpClient(rig, vip)
    assert await client.ask() == b"a:?"
    await serve(rig, vip, two)
    assert await client.ask() == b"b:?"
    assert programmed.stats.flows_active == 1


async def test_a_backend_that_refuses_is_passed_over_without_losing_the_question(rig, vip):
    gone, good = UdpServer(rig, "gone"), UdpServer(rig, "good")
    gone.stop()
    await serve(rig, vip, gone, good)
    for _ in range(4):
        assert await UdpClient(rig, vip).ask() == b"good:?"


async def test_without_backends_the_kernel_refuses(rig, vip):
    server = UdpServer(rig, "a")
    await serve(rig, vip, server)
    client = UdpClient(rig, vip)
    await client.ask()
    await serve(rig, vip)
    with pytest.raises(ConnectionRefusedError):
        await client.ask()


async def test_the_table_of_flows_is_bounded():
    rig = Rig("python", flow_limit=5)
    vip = (VIP, free_port(VIP, socket.SOCK_DGRAM))
    programmed = await serve(rig, vip, UdpServer(rig, "a"))
    clients = [UdpClient(rig, vip) for _ in range(20)]
    for client in clients:
        assert await client.ask() == b"a:?"
    assert len(rig.dataplane.flows.table) == 5
    assert programmed.stats.flows_evicted == 15
    assert programmed.stats.flows_active == 5
    assert await clients[0].ask() == b"a:?"  # evicted ones begin anew
    await rig.close()


async def test_idle_flows_end_and_give_their_descriptor_back(rig, vip):
    await serve(rig, vip, UdpServer(rig, "a"))
    used = rig.descriptors.used
    await UdpClient(rig, vip).ask()
    assert rig.descriptors.used == used + 1
    rig.dataplane.flows.sweep(rig.context.now() + 31)
    assert rig.descriptors.used == used
    assert len(rig.dataplane.flows.table) == 0


async def test_answers_come_from_the_address_that_was_asked(rig):
    port = free_port("0.0.0.0", socket.SOCK_DGRAM)
    await serve(rig, ("0.0.0.0", port), UdpServer(rig, "a"))
    for ip in ("127.0.0.1", "127.0.0.77"):
        assert await UdpClient(rig, (ip, port)).ask() == b"a:?"  # a connected socket takes no other


async def test_counts(rig, vip):
    programmed = await serve(rig, vip, UdpServer(rig, "a"))
    client = UdpClient(rig, vip)
    await client.ask(b"12345")
    await client.ask(b"12345")
    stats = programmed.stats
    await until(lambda: stats.datagrams_to_client == 2)
    assert (stats.flows, stats.flows_active, stats.datagrams_to_backend) == (1, 1, 2)
    assert (stats.bytes_to_backend, stats.bytes_to_client) == (10, 14)
