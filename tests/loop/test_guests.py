"""Our own servers, and clients that reset, stay, are slow, are many, or talk nonsense."""

import asyncio
import errno
import logging
import socket
from contextlib import asynccontextmanager

import pytest

from tests.loop.admin.test_service_health import Rig as HealthRig
from tests.loop.admin.test_service_health import endpoints, member, service
from tests.loop.conftest import free_port
from tests.loop.dns.rig import running
from tests.loop.dns.test_tcp import NAME, WEB, framed
from tests.loop.rig import until
from tests.strangers import abuse, come, nothing_escapes, reset
from uproxy.admin import listening
from uproxy.admin.listening import HttpServer
from uproxy.kit.guests import Door, Guest, Guests, Limits
from uproxy.model.events import Upsert
from uproxy.model.node import Node

REQUEST = b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n"


@asynccontextmanager
async def an_http_server():
    from aiohttp import web

    async def answer(_request):
        return web.Response(text="ok")

    guests = Guests("health", Limits())
    server = HttpServer((socket.create_server(("127.0.0.1", 0)),), answer, guests)
    yield server.doors[0].address, guests, REQUEST
    await server.close()


@asynccontextmanager
async def health_checks():
    rig, port = HealthRig(), free_port()
    rig.store.apply([Upsert(Node("here"))])
    await rig.apply(Upsert(service(port)), endpoints(member("10.0.0.1")))
    yield ("127.0.0.1", port), rig.target.guests, REQUEST
    await rig.target.close()


@asynccontextmanager
async def dns_by_tcp():
    async with running(WEB) as server:
        yield server.address, server.dns.guests, framed(NAME)


SERVERS = pytest.mark.parametrize("serving", [an_http_server, health_checks, dns_by_tcp])


async def answered(address, request: bytes, from_ip: str = "") -> bytes:
    """The first octets of an answer."""
    client = come(address, request, from_ip=from_ip)
    client.setblocking(False)
    try:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 4096), 20)
    finally:
        client.close()


@SERVERS
async def test_a_client_that_resets_at_any_moment_harms_nobody(serving):
    async with nothing_escapes(), serving() as (address, guests, request):
        assert await abuse(address, request) > 100
        assert await answered(address, request)
        await until(lambda: not guests, "all gone")
        assert not guests.ended["failed"], guests.ended


@SERVERS
async def test_one_client_takes_its_own_places_and_nobody_elses(serving):
    async with serving() as (address, guests, request):
        guests.limits = Limits(40, 8)
        held = [
            come(address, request[:10], from_ip="127.0.0.9") for _ in range(guests.limits.most_of_one + 50)
        ]
        try:
            await until(lambda: sum(guests.ended.values()) >= 50)
            assert len(guests) == guests.limits.most_of_one
            assert await answered(address, request)
            assert await answered(address, request, from_ip="127.0.0.9"), "its own idlest makes room"
        finally:
            for client in held:
                reset(client)
        await until(lambda: not guests)


@SERVERS
async def test_when_all_places_are_taken_whoever_has_most_makes_room(serving):
    async with serving() as (address, guests, request):
        guests.limits = Limits(6, 4)
        held = {ip: [come(address, from_ip=ip) for _ in range(count)] for ip, count in MANY.items()}
        try:
            await until(lambda: len(guests) == 6)
            assert await answered(address, request, from_ip="127.0.0.4")
            await until(lambda: is_over(held["127.0.0.1"][0]))
            others = [*held["127.0.0.1"][1:], *held["127.0.0.2"], *held["127.0.0.3"]]
            assert not any(map(is_over, others))
        finally:
            for clients in held.values():
                for client in clients:
                    reset(client)


MANY = {"127.0.0.1": 4, "127.0.0.2": 1, "127.0.0.3": 1}


def is_over(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


@pytest.mark.parametrize("says", [b"", REQUEST[:20]], ids=["nothing", "half"])
async def test_a_request_has_its_time_however_slowly_it_comes(monkeypatch, says):
    monkeypatch.setattr(listening, "REQUEST_S", 0.2)
    async with an_http_server() as (address, guests, _):
        client = come(address, says)
        try:
            await until(lambda: guests.ended["too slow"] == 1)
            assert not guests
        finally:
            client.close()


async def test_a_second_request_has_its_time_as_well(monkeypatch):
    monkeypatch.setattr(listening, "REQUEST_S", 0.2)
    async with an_http_server() as (address, guests, request):
        client = come(address, request)
        client.setblocking(False)
        try:
            assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 4096), 20)
            client.send(request[:10])
            await until(lambda: guests.ended["too slow"] == 1)
        finally:
            client.close()


async def test_an_idle_connection_ends(monkeypatch):
    monkeypatch.setattr(listening, "IDLE_S", 0.2)
    async with an_http_server() as (address, guests, request):
        client = come(address, request)
        try:
            await until(lambda: len(guests) == 1)
            await until(lambda: not guests)
        finally:
            client.close()


async def test_an_answer_that_is_not_read_ends(monkeypatch):
    from aiohttp import web

    monkeypatch.setattr(listening, "ANSWER_S", 0.2)

    async def answer(_request):
        return web.Response(body=bytes(64 << 20))

    guests = Guests("metrics", Limits())
    server = HttpServer((socket.create_server(("127.0.0.1", 0)),), answer, guests)
    client = come(server.doors[0].address, REQUEST)
    try:
        await until(lambda: guests.ended["too slow"] == 1)
    finally:
        client.close()
        await server.close()


async def test_nonsense_is_a_number_and_no_line(caplog):
    with caplog.at_level(logging.DEBUG):
        async with an_http_server() as (address, guests, _):
            for says in (b"NONSENSE\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nBad header\r\n\r\n") * 10:
                assert b" 400 " in (await answered(address, says))[:20]
            assert guests.ended["malformed"] == 20
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


async def test_a_page_that_fails_is_told_once_and_the_server_goes_on(caplog):
    async def answer(_request):
        raise RuntimeError("a bug")

    guests = Guests("metrics", Limits())
    server = HttpServer((socket.create_server(("127.0.0.1", 0)),), answer, guests)
    try:
        for _ in range(3):
            assert (await answered(server.doors[0].address, REQUEST)).startswith(b"HTTP/1.1 500")
    finally:
        await server.close()
    assert guests.ended["failed"] == 3
    (record,) = caplog.records
    assert "told once" in record.message
    assert record.exc_info


class Raising(asyncio.Protocol):
    """Raises in one of its callbacks."""

    def __init__(self, where: str) -> None:
        setattr(self, where, self._raise)

    def _raise(self, *_):
        raise ValueError("no protocol is perfect")


@pytest.mark.parametrize("where", ["connection_made", "data_received", "eof_received", "connection_lost"])
async def test_a_protocol_that_raises_loses_its_connection_and_no_more(where):
    def greet(_ip, client):
        guest = Guest(guests, client)
        guest.inner = Raising(where)
        return guest

    async with nothing_escapes():
        guests = Guests("test", Limits())
        door = Door(socket.create_server(("127.0.0.1", 0)), guests, greet)
        for number in range(1, 4):
            client = come(door.address, b"something")
            client.shutdown(socket.SHUT_WR)
            await until(lambda count=number: guests.ended["failed"] == count)
            client.close()
            await until(lambda: not guests)
        door.close()


class Troubled(socket.socket):
    """Whose accept(2) fails in all the ways that it can, before it works."""

    def __init__(self, *codes: int) -> None:
        super().__init__(socket.AF_INET)
        self.bind(("127.0.0.1", 0))
        self.codes = list(codes)

    def accept(self):
        if self.codes:
            code = self.codes.pop()
            raise OSError(code, errno.errorcode[code])
        return super().accept()


ACCEPT_ERRORS = (
    errno.ECONNABORTED, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EPERM, errno.EPROTO,
    errno.ENETDOWN, errno.EHOSTUNREACH, errno.EOPNOTSUPP,
)  # fmt: skip
"""accept(2): network errors of the new socket come out of it, too."""


async def test_no_error_of_accept_closes_a_door():
    from aiohttp import web

    async def answer(_request):
        return web.Response(text="ok")

    async with nothing_escapes():
        guests = Guests("test", Limits())
        listener = Troubled(*ACCEPT_ERRORS)
        server = HttpServer((listener,), answer, guests)
        assert (await answered(server.doors[0].address, REQUEST)).startswith(b"HTTP/1.1 200")
        assert not listener.codes
        assert guests.ended["no descriptors"] == 4
        await server.close()


class Budget:
    """Descriptors that are scarce from some number on."""

    def __init__(self, limit: int) -> None:
        self.used, self.limit = 0, limit

    @property
    def scarce(self) -> bool:
        return self.used >= self.limit

    def released(self, count: int) -> None:
        self.used -= count


async def test_connections_are_in_the_budget_and_few_while_that_is_spent():
    async with dns_by_tcp() as (address, guests, request):
        budget = guests.budget = Budget(40)
        held = [come(address) for _ in range(80)]
        try:
            await until(lambda: sum(guests.ended.values()) == 40)
            assert (len(guests), budget.used) == (40, 40)
            assert await answered(address, request)
        finally:
            for client in held:
                reset(client)
        await until(lambda: budget.used == 0)


def test_clients_of_ipv6_share_by_network():
    from uproxy.kit.guests import _client

    assert _client("2001:db8::1") == _client("2001:db8::2:3") != _client("2001:db8:0:1::1")
    assert _client("::ffff:192.0.2.1") == _client("192.0.2.1")
    assert _client("fe80::1%eth0") == _client("fe80::2")
