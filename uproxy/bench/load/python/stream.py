"""Bytes as fast as they go; native/stream.c is its twin, with the reasons."""

import select
import time

from uproxy.bench.load import wire
from uproxy.bench.load.plan import LoadPlan
from uproxy.bench.load.python.worker import NS_PER_S, Connection, State, Worker
from uproxy.bench.load.target import Target

_BOTH_WAYS = select.EPOLLIN | select.EPOLLOUT
_BEGIN = {
    "stream-up": wire.Kind.UPLOAD,
    "stream-down": wire.Kind.DOWNLOAD,
    "stream-both": wire.Kind.BOTH,
}


class StreamWorker(Worker):
    """Streams up, down, or both."""

    def __init__(self, plan: LoadPlan, target: Target) -> None:
        super().__init__(plan, target)
        self._last_byte_ns = 0
        self._begin_message = wire.message(
            wire.Header(_BEGIN[plan.workload], wire.HEADER, plan.message_bytes << 32)
        )
        self._data = wire.message(wire.Header(wire.Kind.DATA, plan.message_bytes, 0))
        self._end = wire.message(wire.Header(wire.Kind.END, wire.HEADER, 0))

    def work(self) -> None:
        """Warm up, measure, and wait until the last byte is read."""
        self.establish()
        self.start_clock()
        for connection in self.connections:
            if connection.state is State.FREE:
                self._begin(connection)
        while time.monotonic_ns() < self.end_ns:
            self.pump(self.wake_by(self.end_ns))
        for connection in self.connections:
            if connection.busy:
                self.watch(connection, _BOTH_WAYS)
        patience = self.end_ns + int(self.plan.timeout_s * NS_PER_S)
        while self.busy and time.monotonic_ns() < patience:
            self.pump(patience)
        self.stop_cpu_clock()
        self.stuck = self.busy
        up = 0 if self.plan.workload == "stream-down" else self.bytes_up
        down = 0 if self.plan.workload == "stream-up" else self.bytes_down
        self.operations = up + down

    def elapsed_s(self) -> float:
        """Return the time until the last byte was received."""
        return max(0, self._last_byte_ns - self.measure_ns) / NS_PER_S

    def ready(self, connection: Connection, now: int) -> None:
        """Start, or wait for the others."""
        connection.state = State.FREE
        if self.started and now < self.end_ns:
            self._begin(connection)
        else:
            self.watch(connection, select.EPOLLIN)

    def on_event(self, connection: Connection, events: int) -> None:
        """Send some, and read some."""
        if events & select.EPOLLOUT and connection.busy:
            self._send_some(connection)
        if connection.socket is None or not events & (select.EPOLLIN | select.EPOLLERR | select.EPOLLHUP):
            return
        data = self.receive_some(connection)
        if data is None:
            return
        now = connection.sent_ns = time.monotonic_ns()
        if now >= self.measure_ns:
            self.bytes_down += len(data)
            self._last_byte_ns = now
        try:
            self._take(connection, data)
        except wire.Mismatch:
            self.fail(connection, "mismatch", now)

    def _begin(self, connection: Connection) -> None:
        now = time.monotonic_ns()
        self.begin(connection, now, now)
        connection.state = State.WAITING
        connection.outgoing = memoryview(self._begin_message)
        self.watch(connection, _BOTH_WAYS)

    def _send_some(self, connection: Connection) -> None:
        if not connection.outgoing and not self._refill(connection):
            self.watch(connection, select.EPOLLIN)
            return
        before = len(connection.outgoing)
        self.push(connection)
        if len(connection.outgoing) < before:
            connection.sent_ns = time.monotonic_ns()

    def _refill(self, connection: Connection) -> bool:
        is_over = time.monotonic_ns() >= self.end_ns
        if connection.ended or (not is_over and self.plan.workload == "stream-down"):
            return False
        connection.ended = is_over
        connection.outgoing = memoryview(self._end if is_over else self._data)
        return True

    def _take(self, connection: Connection, data: bytes) -> None:
        at, incoming = 0, connection.incoming
        while at < len(data):
            at += incoming.feed(data[at:] if at else data)
            if incoming.whole:
                header = incoming.header
                incoming.clear()
                self._handle(connection, header)

    def _handle(self, connection: Connection, header: wire.Header) -> None:
        is_end = header.kind == wire.Kind.END
        if not connection.busy or not (header.kind == wire.Kind.DATA or (is_end and connection.ended)):
            raise wire.Mismatch
        now = time.monotonic_ns()
        connection.endpoint = wire.name_of(header)
        more = header.number - connection.read_by_server
        connection.read_by_server = header.number
        if more and now >= self.measure_ns:
            self.bytes_up += more
            self._last_byte_ns = now
        if is_end:
            self.by_endpoint[connection.endpoint] += 1
            self.finish(connection)
            self.close(connection)
