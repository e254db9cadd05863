"""Questions that c-ares cannot ask: types that it does not know, and those with DNSSEC's signatures.

Owns sockets and time: a new port and a random number for each question (RFC 5452), the servers in
order, TCP after truncation. Refuses to read more of a reply than that it is one.
"""

import asyncio
import secrets
from collections.abc import Sequence

from uproxy.dns.cache import Outcome
from uproxy.dns.replies import answers, question, read_reply, truncated
from uproxy.dns.wire import Malformed, Rcode
from uproxy.settings import Address

ATTEMPT_TIMEOUT_S = 2.0
ATTEMPTS = 2
"""Rounds over all servers."""


async def ask_verbatim(servers: Sequence[Address], name: bytes, kind: int, *, dnssec: bool) -> Outcome:
    """What the first server says that says anything; else SERVFAIL. Raises nothing."""
    for server in [*servers] * ATTEMPTS:
        asked = question(secrets.randbelow(1 << 16), name, kind, dnssec=dnssec)
        try:
            async with asyncio.timeout(ATTEMPT_TIMEOUT_S):
                outcome = read_reply(await _exchange(server, asked))
        except (OSError, TimeoutError, EOFError, Malformed):
            continue
        if outcome.rcode is not Rcode.SERVFAIL:
            return outcome
    return Outcome(Rcode.SERVFAIL)


async def _exchange(server: Address, asked: bytes) -> bytes:
    reply = await _by_udp(server, asked)
    return await _by_tcp(server, asked) if truncated(reply) else reply


async def _by_udp(server: Address, asked: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    transport, waiting = await loop.create_datagram_endpoint(lambda: _Waiting(asked), remote_addr=server)
    try:
        transport.sendto(asked)
        return await waiting.reply
    finally:
        transport.close()


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


class _Waiting(asyncio.DatagramProtocol):
    """Takes the reply to one question, and nothing else that comes."""

    def __init__(self, asked: bytes) -> None:
        self._asked = asked
        self.reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, _client: object) -> None:
        """Perhaps the reply."""
        if not self.reply.done() and answers(self._asked, data):
            self.reply.set_result(data)

    def error_received(self, error: Exception) -> None:
        """Nobody is there."""
        if not self.reply.done():
            self.reply.set_exception(error)
