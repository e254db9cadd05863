"""Queries by TCP: several on one connection, answered in any order (RFC 7766).

Owns how long a connection may be idle, and how much of one client's is under way. How many there may be
is `kit/guests`' business.
"""

import asyncio
from typing import cast

from uproxy.dns.front import Fate, Front
from uproxy.dns.stats import DnsStats
from uproxy.kit.guests import Guest, Guests, Limits

IDLE_S = 10.0
"""Without a whole query in this time a connection ends; a few octets now and then do not count."""
LIMITS = Limits(1000, 250)
MOST_UNDER_WAY = 100
"""Answers that one connection waits for; more queries are not read until there are fewer."""
_LENGTH_BYTES = 2


class TcpConnections:
    """What all connections of all listeners share."""

    def __init__(self, front: Front, stats: DnsStats, guests: Guests, idle_s: float = IDLE_S) -> None:
        self.front = front
        self.stats = stats
        self.guests = guests
        self.idle_s = idle_s

    def greet(self, ip: str, client: str) -> Guest:
        """One more connection, of somebody at `ip`."""
        guest = _DnsGuest(self.guests, client)
        guest.inner = guest.speaks = TcpConnection(self, guest, ip)
        return guest


class _DnsGuest(Guest):
    speaks: "TcpConnection"

    def on_time(self) -> None:
        """What waits for upstream has its own time, which is shorter."""
        if self.busy:
            self.wait(self.speaks.idle_s)
        else:
            super().on_time()


class TcpConnection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, connections: TcpConnections, guest: Guest, ip: str) -> None:
        self._all = connections
        self._guest = guest
        self._transport: asyncio.Transport | None = None
        self._client, self._family = ip, 6 if ":" in ip else 4
        self._received = bytearray()
        self._under_way = 0
        self._full = False
        """The client does not read its answers."""
        self._ended = False

    @property
    def idle_s(self) -> float:
        """How long the client may take over a query."""
        return self._all.idle_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client: served, or closed at once."""
        self._transport = cast(asyncio.Transport, transport)
        if self._all.front.gate.serves(self._client):
            self._wait()
        else:
            self._all.stats.dropped["network not served"] += 1
            self._guest.end("network not served")

    def data_received(self, data: bytes) -> None:
        """Some octets, of any number of queries."""
        self._received += data
        self._answer_received()

    def eof_received(self) -> bool:
        """The client has no more queries, and still wants its answers."""
        self._ended = True
        return self._under_way > 0

    def pause_writing(self) -> None:
        """Answers pile up."""
        self._full = True
        self._count_under_way(0)
        self._set_reading()

    def resume_writing(self) -> None:
        """They are read again."""
        self._full = False
        self._count_under_way(0)
        self._answer_received()

    def connection_lost(self, _error: Exception | None) -> None:
        """Over."""
        self._transport = None

    def _answer_received(self) -> None:
        """Answer the whole queries that are here, as long as there may be more under way."""
        while self._may_take():
            end = _LENGTH_BYTES + int.from_bytes(self._received[:_LENGTH_BYTES])
            if len(self._received) < _LENGTH_BYTES or len(self._received) < end:
                break
            packet = bytes(self._received[_LENGTH_BYTES:end])
            del self._received[:end]
            self._take(packet)
        self._set_reading()

    def _may_take(self) -> bool:
        return self._transport is not None and not self._full and self._under_way < MOST_UNDER_WAY

    def _take(self, packet: bytes) -> None:
        self._guest.used()
        self._wait()
        answer = self._all.front.take_message(packet, self._client, self._family, self._send_later)
        if isinstance(answer, bytes):
            self._send(answer)
        elif answer is Fate.LATER:
            self._count_under_way(1)
        else:
            self._guest.end("malformed")  # this is no client

    def _send_later(self, answer: bytes) -> None:
        self._count_under_way(-1)
        self._send(answer)
        self._wait()
        self._answer_received()
        if self._ended and not self._under_way and self._transport is not None:
            self._transport.close()

    def _send(self, answer: bytes) -> None:
        if self._transport is not None:
            self._transport.write(len(answer).to_bytes(_LENGTH_BYTES) + answer)

    def _set_reading(self) -> None:
        if self._transport is None:
            return
        if self._may_take():
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _count_under_way(self, more: int) -> None:
        self._under_way += more
        self._guest.busy = self._under_way > 0 and not self._full

    def _wait(self) -> None:
        """Give the client its time for another query, or to read its answers."""
        if self._transport is not None:
            self._guest.wait(self.idle_s)
