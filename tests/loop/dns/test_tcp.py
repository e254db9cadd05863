"""Queries by TCP: pipelined, in pieces, too slow, too many."""

import asyncio
from contextlib import asynccontextmanager
from time import monotonic

import dns.message
import dns.rcode
import pytest

from tests.loop.dns.rig import PATIENCE_S, running, upstream
from tests.pure.dns.rig import headless, piece, service
from uproxy.dns.cluster_dns import _bind_tcp
from uproxy.dns.front import Front
from uproxy.dns.limits import Gate
from uproxy.dns.tcp import IDLE_S, TcpConnections
from uproxy.kit.guests import Door, Guests, Limits

NAME = "web.default.svc.cluster.local."
WEB = service("web", "http:80", ips="172.30.0.1")


def framed(name: str, number: int = 1, kind: str = "A") -> bytes:
    packet = dns.message.make_query(name, kind, id=number).to_wire()
    return len(packet).to_bytes(2) + packet


@asynccontextmanager
async def connected(address):
    reader, writer = await asyncio.open_connection(*address)
    try:
        yield reader, writer
    finally:
        writer.close()


async def read_one(reader) -> dns.message.Message:
    async with asyncio.timeout(PATIENCE_S):
        length = int.from_bytes(await reader.readexactly(2))
        return dns.message.from_wire(await reader.readexactly(length))


async def ended(reader) -> bool:
    async with asyncio.timeout(PATIENCE_S):
        try:
            return await reader.read(1) == b""
        except ConnectionError:
            return True


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
async def test_several_queries_at_once_are_all_answered(ip):
    async with running(WEB, listen=((ip, 0),)) as server, connected(server.address) as (reader, writer):
        writer.write(b"".join(framed(NAME, number) for number in range(300)))
        answers = [await read_one(reader) for _ in range(300)]
        assert sorted(answer.id for answer in answers) == list(range(300))
        assert server.dns.stats.requests["tcp", 6 if ":" in ip else 4] == {1: 300}


async def test_a_query_octet_by_octet():
    async with running(WEB) as server, connected(server.address) as (reader, writer):
        for octet in framed(NAME, 7) + framed(NAME, 8)[:20]:
            writer.write(bytes((octet,)))
            await writer.drain()
        assert (await read_one(reader)).id == 7
        writer.write(framed(NAME, 8)[20:])
        assert (await read_one(reader)).id == 8


async def test_a_large_answer():
    ips = [f"10.0.{number // 200}.{number % 200}" for number in range(1000)]
    objects = (headless("db", "pg:1"), piece("db", *ips, ports="pg:1"))
    async with running(*objects) as server, connected(server.address) as (reader, writer):
        writer.write(framed("db.default.svc.cluster.local."))
        assert len((await read_one(reader)).answer[0]) == 1000


async def test_a_client_that_ends_its_side_still_gets_its_answers():
    async with upstream("example.com. 60 A 192.0.2.1") as above:
        above.silent.add("example.com.")
        async with (
            running(WEB, upstream=[above.address]) as server,
            connected(server.address) as (reader, writer),
        ):
            writer.write(framed("example.com.", 1) + framed(NAME, 2))
            writer.write_eof()
            assert (await read_one(reader)).id == 2, "what upstream is asked for holds nobody up"
            await above.wait_for(1)
            above.release()
            assert (await read_one(reader)).id == 1
            assert await ended(reader)


async def test_what_is_no_query_ends_the_connection():
    async with running(WEB) as server, connected(server.address) as (reader, writer):
        writer.write(b"\0\3abc")
        assert await ended(reader)


async def test_malformed_is_formerr_and_the_connection_stays():
    async with running(WEB) as server, connected(server.address) as (reader, writer):
        writer.write(b"\0\x0c\0\1\1\0" + bytes(8) + framed(NAME, 2))
        assert (await read_one(reader)).rcode() == dns.rcode.FORMERR
        assert (await read_one(reader)).id == 2


@asynccontextmanager
async def limited(server, most: int = 10, idle_s: float = IDLE_S):
    """The same server on another port, with limits that a test can reach."""
    guests = Guests("dns", Limits(most, most))
    responder = Front(server.dns.responder, None, Gate(), server.dns.stats, tasks=server.tasks, now=monotonic)
    connections = TcpConnections(responder, server.dns.stats, guests, idle_s)
    door = Door(_bind_tcp("127.0.0.1", 0), guests, connections.greet)
    try:
        yield guests, door.address
    finally:
        door.close()
        guests.close()


async def test_an_idle_connection_ends_also_one_that_sends_an_octet_now_and_then():
    async with running(WEB) as server, limited(server, idle_s=0.05) as (connections, address):
        async with connected(address) as (silent, _), connected(address) as (slow, writer):
            for octet in framed(NAME)[:-1]:
                writer.write(bytes((octet,)))
            assert await ended(silent)
            assert await ended(slow)
        assert len(connections) == 0


async def test_one_too_many_ends_the_idlest():
    async with (
        running(WEB) as server,
        limited(server, most=2) as (connections, address),
        connected(address) as (first, writer),
        connected(address) as (second, _),
    ):
        writer.write(framed(NAME))
        await read_one(first)
        async with connected(address) as (third, writer3):
            writer3.write(framed(NAME, 3))
            assert (await read_one(third)).id == 3
            assert await ended(second)
            writer.write(framed(NAME, 4))
            assert (await read_one(first)).id == 4
            assert len(connections) == 2


async def test_a_client_that_reads_nothing_is_not_read_from():
    ips = [f"10.0.{number // 200}.{number % 200}" for number in range(1000)]
    objects = (headless("db"), piece("db", *ips))
    query = framed("db.default.svc.cluster.local.")
    async with running(*objects) as server, connected(server.address) as (reader, writer):
        writer.transport.set_write_buffer_limits(high=1 << 16)
        sent = 0
        while sent < 5000:  # answers of 16 kB each
            writer.write(query * 50)
            sent += 50
            try:
                await asyncio.wait_for(writer.drain(), 0.2)
            except TimeoutError:
                break
        served = server.dns.stats.requests["tcp", 4][1]
        assert served < sent, "all of it was answered into memory"
        async with asyncio.timeout(PATIENCE_S):
            for _ in range(served):
                await reader.readexactly(int.from_bytes(await reader.readexactly(2)))


async def test_queries_that_wait_for_upstream_are_bounded_for_each_connection():
    async with upstream() as above:
        names = [f"n{number}.example." for number in range(150)]
        above.silent.update(names)
        async with (
            running(WEB, upstream=[above.address]) as server,
            connected(server.address) as (reader, writer),
        ):
            writer.write(b"".join(framed(name, number) for number, name in enumerate(names)))
            await above.wait_for(100)
            assert server.dns.stats.upstream_requests == 101  # and the probe
            async with connected(server.address) as (other, its):
                its.write(framed(NAME, 5))
                assert (await read_one(other)).id == 5
            above.release()
            answers = {(await read_one(reader)).id for _ in names}
            assert answers == set(range(150))
