"""Exchanges: one request, one reply, of the bench protocol or of HTTP.

Owns what is sent and what counts as its answer. Refuses to choose when.
"""

import select
import time
from abc import abstractmethod

from uproxy.bench.load import wire
from uproxy.bench.load.plan import SHORTEST_MESSAGE, LoadPlan
from uproxy.bench.load.python import http
from uproxy.bench.load.python.worker import RECEIVE, Connection, State, Worker
from uproxy.bench.load.target import Target

_READABLE = select.EPOLLIN | select.EPOLLERR | select.EPOLLHUP


class ExchangeWorker(Worker):
    """A worker whose connections ask and are answered."""

    def __init__(self, plan: LoadPlan, target: Target) -> None:
        super().__init__(plan, target)
        shortest = plan.workload in ("connect", "idle")
        self.message_bytes = SHORTEST_MESSAGE if shortest else plan.message_bytes
        self.reply_bytes = SHORTEST_MESSAGE if shortest else plan.answer_bytes
        self._is_http = plan.protocol == "http"

    @abstractmethod
    def answered(self, connection: Connection, now: int) -> None:
        """Its operation has its answer."""

    def established(self, connection: Connection, now: int) -> None:
        """Send the request that waited for the handshake, if any."""
        if connection.busy:
            self.ask(connection)
        else:
            self.ready(connection, now)

    def ask(self, connection: Connection) -> None:
        """Send one request."""
        connection.state = State.WAITING
        if self._is_http:
            request = http.LAST_REQUEST if self.opens_each else http.REQUEST
        else:
            connection.sequence = connection.sequence + 1 & 0xFFFFFFFF
            request = wire.exchange(self.message_bytes, self.reply_bytes, connection.sequence)
        connection.outgoing = memoryview(request)
        self.push(connection)
        if self._is_http and connection.due_ns >= self.measure_ns:
            self.bytes_up += len(request)

    def on_event(self, connection: Connection, events: int) -> None:
        """Send the rest of a long request, and read."""
        if events & select.EPOLLOUT and connection.busy and connection.outgoing:
            self.push(connection)
        if connection.socket is not None and events & _READABLE:
            self._receive(connection)

    def end_of_file(self, connection: Connection) -> None:
        """A web server may close a connection that rests; every other end is an error."""
        if not self._is_http or connection.busy:
            super().end_of_file(connection)
            return
        self.close(connection)
        self.open(connection, time.monotonic_ns())

    def _receive(self, connection: Connection) -> None:
        more = True
        while more:
            data = self.receive_some(connection)
            if data is None:
                return
            try:
                more = self._take_http(connection, data) if self._is_http else self._take(connection, data)
            except wire.Mismatch:
                self.fail(connection, "mismatch", time.monotonic_ns())
                return
            except http.BadStatus:
                self.fail(connection, "status", time.monotonic_ns())
                return
            more = more and len(data) == RECEIVE

    def _take(self, connection: Connection, data: bytes) -> bool:
        incoming = connection.incoming
        if incoming.feed(data) != len(data) or (self.is_udp and not incoming.whole):
            raise wire.Mismatch
        if not incoming.whole:
            return True
        header = incoming.header
        incoming.clear()
        if self._is_answer(connection, header):
            connection.endpoint = wire.name_of(header)
            self.answered(connection, time.monotonic_ns())
        elif not self.is_udp:  # a datagram may be late: no error
            raise wire.Mismatch
        return False

    def _is_answer(self, connection: Connection, header: wire.Header) -> bool:
        return (
            connection.busy
            and header.kind == wire.Kind.REPLY
            and header.sequence == connection.sequence
            and header.length == self.reply_bytes
        )

    def _take_http(self, connection: Connection, data: bytes) -> bool:
        if not connection.busy:
            raise wire.Mismatch
        if connection.due_ns >= self.measure_ns:
            self.bytes_down += len(data)
        if not connection.reply.feed(data):
            return True
        self.answered(connection, time.monotonic_ns())
        return False
