"""Queries by TCP: several on one connection, answered in any order (RFC 7766).

Owns connections: how many, how long one may be idle, and how much of one client's is under way.
"""

import asyncio
from typing import cast

from uproxy.dns.front import Fate, Front
from uproxy.dns.stats import DnsStats

IDLE_S = 10.0
"""Without a whole query in this time a connection ends; a few octets now and then do not count."""
MOST_CONNECTIONS = 1000
"""One more ends the one that has been idle longest."""
MOST_UNDER_WAY = 100
"""Answers that one connection waits for; more queries are not read until there are fewer."""
_LENGTH_BYTES = 2


class TcpConnections:
    """All connections of all listeners, the longest idle first."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        front: Front,
        stats: DnsStats,
        idle_s: float = IDLE_S,
        most: int = MOST_CONNECTIONS,
    ) -> None:
        self.loop = loop
        self.front = front
        self.stats = stats
        self.idle_s = idle_s
        self._most = most
        self._open: dict[TcpConnection, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def connection(self) -> "TcpConnection":
        """A protocol for one more."""
        return TcpConnection(self)

    def opened(self, connection: "TcpConnection") -> None:
        """Take one more in; the idlest may have to go."""
        if len(self._open) >= self._most:
            next(iter(self._open)).abort()
        self._open[connection] = None

    def used(self, connection: "TcpConnection") -> None:
        """A whole query came: it is the last to go now."""
        if connection in self._open:
            del self._open[connection]
            self._open[connection] = None

    def closed(self, connection: "TcpConnection") -> None:
        """One fewer."""
        self._open.pop(connection, None)

    def close(self) -> None:
        """End all."""
        for connection in list(self._open):
            connection.abort()


class TcpConnection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, connections: TcpConnections) -> None:
        self._all = connections
        self._transport: asyncio.Transport | None = None
        self._client, self._family = "", 4
        self._received = bytearray()
        self._under_way = 0
        self._full = False
        """The client does not read its answers."""
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client: served, or closed at once."""
        self._transport = cast(asyncio.Transport, transport)
        self._client = str(transport.get_extra_info("peername")[0])
        self._family = 6 if ":" in self._client else 4
        self._all.opened(self)
        if self._all.front.gate.serves(self._client):
            self._wait()
        else:
            self._all.stats.dropped["network not served"] += 1
            self.abort()

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
        self._set_reading()

    def resume_writing(self) -> None:
        """They are read again."""
        self._full = False
        self._answer_received()

    def connection_lost(self, _error: Exception | None) -> None:
        """Over."""
        self._transport = None
        self._all.closed(self)
        if self._timer is not None:
            self._timer.cancel()

    def abort(self) -> None:
        """End it now."""
        if self._transport is not None:
            self._transport.abort()

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
        self._all.used(self)
        self._wait()
        answer = self._all.front.take_message(packet, self._client, self._family, self._send_later)
        if isinstance(answer, bytes):
            self._send(answer)
        elif answer is Fate.LATER:
            self._under_way += 1
        else:
            self.abort()  # this is no client

    def _send_later(self, answer: bytes) -> None:
        self._under_way -= 1
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

    def _wait(self) -> None:
        """Give the client its time for another query, or to read its answers."""
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._timer = self._all.loop.call_later(self._all.idle_s, self._idle)

    def _idle(self) -> None:
        """Its time is over; what waits for upstream has its own, which is shorter."""
        if self._under_way and not self._full:
            self._wait()
        else:
            self.abort()
