"""Questions to other servers, whatever their type, and replies as they come.

Owns sockets, time, and what is remembered of each server: whether it is there, and whether it knows EDNS.
A new port and a random number for each question (RFC 5452), TCP after truncation. Refuses to read more of
a reply than that it is one.
"""

import asyncio
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from uproxy.dns.cache import Outcome
from uproxy.dns.replies import answers, knows_no_edns, question, read_reply, truncated
from uproxy.dns.wire import Malformed, Rcode
from uproxy.settings import Address

ATTEMPT_TIMEOUT_S = 2.0
ATTEMPTS = 2
"""Rounds over all servers."""
AWAY_S = 10.0
"""A server that did not reply is the last to be asked for so long; then one question tries it."""
_LONGEST_REPLY = 65535


class Servers:
    """Some servers, of which the first that works is asked."""

    def __init__(self, addresses: Sequence[Address], now: Callable[[], float]) -> None:
        self._servers = [_Server(address) for address in addresses]
        self._now = now

    async def ask(self, name: bytes, kind: int, *, dnssec: bool) -> Outcome:
        """What the first server says that says anything; else SERVFAIL. Raises nothing of the network's."""
        for server in self._in_turn() * ATTEMPTS:
            try:
                outcome = await self._attempt(server, name, kind, dnssec=dnssec)
            except (OSError, EOFError, Malformed):  # TimeoutError is an OSError
                server.away_until_s = self._now() + AWAY_S
                continue
            server.away_until_s = 0.0
            if outcome.rcode is not Rcode.SERVFAIL:
                return outcome
        return Outcome(Rcode.SERVFAIL)

    def _in_turn(self) -> "list[_Server]":
        """Those that are there first. One that was away for long enough is tried by this question alone."""
        now_s = self._now()
        away = [server for server in self._servers if server.away_until_s > now_s]
        there = [server for server in self._servers if server.away_until_s <= now_s]
        for server in there:
            if server.away_until_s:
                server.away_until_s = now_s + AWAY_S
        return there + away

    async def _attempt(self, server: "_Server", name: bytes, kind: int, *, dnssec: bool) -> Outcome:
        async with asyncio.timeout(ATTEMPT_TIMEOUT_S):
            edns = server.edns
            asked = question(secrets.randbelow(1 << 16), name, kind, dnssec=dnssec, edns=edns)
            reply = await _by_udp(server.address, asked)
            if edns and knows_no_edns(reply):
                server.edns = False
                asked = question(secrets.randbelow(1 << 16), name, kind, dnssec=False, edns=False)
                reply = await _by_udp(server.address, asked)
            if truncated(reply):
                reply = await _by_tcp(server.address, asked)
            return read_reply(reply, whole=dnssec)


class _Server:
    """What is remembered of one."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.edns = True
        self.away_until_s = 0.0
        """0 while it replies."""


async def _by_udp(server: Address, asked: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    with _connected(server) as stream:
        await loop.sock_sendall(stream, asked)
        while True:
            packet = await loop.sock_recv(stream, _LONGEST_REPLY)
            if answers(asked, packet):
                return packet


@contextmanager
def _connected(server: Address) -> Iterator[socket.socket]:
    """A datagram socket that only this server's packets come to. Raises OSError."""
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as stream:
        stream.connect(server)
        yield stream


async def _by_tcp(server: Address, asked: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*server)
    try:
        writer.write(len(asked).to_bytes(2) + asked)
        reply = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
    finally:
        writer.close()
    if not answers(asked, reply):
        raise Malformed("a reply to something else")
    return reply
