"""Queries by UDP, over real sockets."""

import asyncio

import dns.message
import dns.rcode
import pytest

from tests.loop.dns.rig import PATIENCE_S, Client, Running, exchange, running
from tests.pure.dns.rig import lines, service
from uproxy.dns.cluster_dns import ClusterDns, DnsSettings
from uproxy.errors import UproxyError

NAME = "web.default.svc.cluster.local."
WEB = service("web", "http:80", ips="172.30.0.1")
QUERY = dns.message.make_query(NAME, "A").to_wire()


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1", "0.0.0.0", "::"])
async def test_every_kind_of_address_answers(ip):
    async with running(WEB, listen=((ip, 0),)) as server:
        loopback = "::1" if ":" in ip else "127.0.0.1"
        read = await server.ask(NAME, address=(loopback, server.address[1]))
        assert lines(read.answer) == [f"{NAME} 5 A 172.30.0.1"]
        assert server.dns.stats.requests["udp", 6 if ":" in ip else 4] == {1: 1}
        assert server.dns.stats.responses[0] == 1
        assert sum(server.dns.stats.duration.counts) == 1


async def test_a_wildcard_answers_from_the_address_that_was_asked():
    async with running(WEB, listen=(("0.0.0.0", 0),)) as server:
        for ip in ("127.0.0.1", "127.0.0.2", "127.9.9.9"):
            _, source = await exchange(QUERY, (ip, server.address[1]))
            assert source == (ip, server.address[1])


async def test_several_addresses():
    async with running(WEB, listen=(("127.0.0.1", 0), ("127.0.0.2", 0), ("::1", 0))) as server:
        assert [address[0] for address in server.dns.addresses] == ["127.0.0.1", "127.0.0.2", "::1"]
        for address in server.dns.addresses:
            assert (await server.ask(NAME, address=address)).rcode() == dns.rcode.NOERROR
        read = await server.ask("ns.dns.cluster.local.")
        assert len(lines(read.answer)) == 2


async def test_everything_is_servfail_until_the_first_make():
    made = Running(ClusterDns(DnsSettings(listen=(("127.0.0.1", 0),)), lambda: 0.0))
    await made.dns.start(made.tasks)
    try:
        made.dns.observe(object())
        assert (await made.ask(NAME)).rcode() == dns.rcode.SERVFAIL
        made.dns._events.clear()
        await made.upsert(WEB)
        assert (await made.ask(NAME)).rcode() == dns.rcode.NOERROR
    finally:
        await made.dns.close()


async def test_a_burst_is_answered_whole():
    async with running(WEB) as server:
        transport, client = await asyncio.get_running_loop().create_datagram_endpoint(
            Client, local_addr=("127.0.0.1", 0)
        )
        for number in range(200):
            transport.sendto(number.to_bytes(2) + QUERY[2:], server.address)
        numbers = [(await asyncio.wait_for(client.answers.get(), PATIENCE_S))[0][:2] for _ in range(200)]
        assert sorted(numbers) == [number.to_bytes(2) for number in range(200)]
        transport.close()


async def test_a_client_that_is_gone_harms_nobody():
    async with running(WEB) as server:
        for _ in range(5):
            transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                Client, local_addr=("127.0.0.1", 0)
            )
            transport.sendto(QUERY, server.address)
            transport.abort()
        assert (await server.ask(NAME)).rcode() == dns.rcode.NOERROR


async def test_what_is_no_query_is_counted_and_not_answered():
    async with running(WEB) as server:
        transport, client = await asyncio.get_running_loop().create_datagram_endpoint(
            Client, local_addr=("127.0.0.1", 0)
        )
        transport.sendto(b"x", server.address)
        transport.sendto(QUERY[:2] + b"\x81" + QUERY[3:], server.address)
        transport.sendto(QUERY, server.address)
        await asyncio.wait_for(client.answers.get(), PATIENCE_S)
        assert server.dns.stats.dropped == {"no query": 2}
        assert client.answers.empty()
        transport.close()


async def test_nothing_listens_after_the_end():
    async with running(WEB) as server:
        address = server.address
    async with running(WEB, listen=(address,)) as again:
        assert (await again.ask(NAME)).rcode() == dns.rcode.NOERROR


async def test_an_address_that_is_taken_is_one_clear_line_and_leaves_nothing():
    async with running(WEB) as server:
        second = ClusterDns(DnsSettings(listen=(("127.0.0.2", 0), server.address)), lambda: 0.0)
        with pytest.raises(UproxyError, match=r"cannot serve DNS at 127.0.0.1:\d+: Address already in use"):
            await second.start(server.tasks)
        await second.close()


def test_a_domain_that_is_no_name_is_one_clear_line():
    with pytest.raises(UproxyError, match="cannot be a cluster domain"):
        ClusterDns(DnsSettings(listen=(), domain="a..b"), lambda: 0.0)
