"""What goes in circles ends, as a packet does: each dial may go one hop less far than what came."""

import asyncio
import socket

import pytest

from tests.loop.conftest import free_port
from tests.loop.rig import PATIENCE_S, Rig, backend, until
from uproxy.model.closing import CloseReason
from uproxy.model.names import Protocol

HOPS = 64
VIPS = ("127.96.0.11", "::1")
TTL = {
    socket.AF_INET: (socket.IPPROTO_IP, socket.IP_TTL),
    socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS),
}


def client_of(vip: str, kind: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in vip else socket.AF_INET, kind)
    sock.setsockopt(*TTL[sock.family], HOPS)
    sock.setblocking(False)
    return sock


async def connect_and_listen(client: socket.socket, vip: tuple[str, int]) -> None:
    """The first may hear already what the second is to hear."""
    await asyncio.get_running_loop().sock_connect(client, vip)
    await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 1), PATIENCE_S)


@pytest.mark.parametrize("ip", VIPS)
async def test_a_connection_in_circles_is_reset_and_leaves_nothing(rig, ip):
    vip = (ip, free_port(ip))
    programmed = await rig.serve(vip, [backend(vip)])
    with client_of(ip, socket.SOCK_STREAM) as client, pytest.raises(ConnectionResetError):
        await connect_and_listen(client, vip)
    await until(lambda: len(rig.ended) == HOPS)
    rig.relay.collect()
    assert programmed.stats.connections == HOPS
    assert programmed.stats.closes[CloseReason.HOP_LIMIT] == 1
    assert rig.relay.open_connections == 0


@pytest.mark.parametrize("ip", VIPS)
async def test_a_datagram_in_circles_is_dropped(relay, ip):
    rig = Rig(relay, flow_limit=1000)
    vip = (ip, free_port(ip, socket.SOCK_DGRAM))
    programmed = await rig.serve(vip, [backend(vip)], Protocol.UDP)
    with client_of(ip, socket.SOCK_DGRAM) as client:
        client.sendto(b"round and round", vip)
        await until(lambda: programmed.stats.datagrams_dropped == 1)
    assert programmed.stats.flows == programmed.stats.datagrams_to_backend == HOPS - 1
    await rig.close()


async def test_an_endpoint_is_dialled_one_hop_less_far(rig):
    vip = ("127.96.0.11", free_port("127.96.0.11"))
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.IPPROTO_TCP, 27, 1)  # TCP_SAVE_SYN
    listener.setblocking(False)
    await rig.serve(vip, [backend(listener.getsockname())])
    with client_of(vip[0], socket.SOCK_STREAM) as client:
        client.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 9)
        await asyncio.get_running_loop().sock_connect(client, vip)
        server, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(listener), PATIENCE_S)
        assert server.getsockopt(socket.IPPROTO_TCP, 28, 128)[8] == 8
        server.close()
    listener.close()
