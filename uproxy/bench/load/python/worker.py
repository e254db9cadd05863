"""A loop over epoll and its connections: opened, asked, failed, opened again.

Owns sockets and the time; native/connection.c and native/loop.c are its twins, with the reasons.
Refuses to choose what to send when: the workloads do, in `ready` and `on_event`.
"""

import errno
import itertools
import resource
import select
import socket
import time
from abc import ABC, abstractmethod
from collections import Counter
from enum import Enum, auto

from uproxy.bench.latency import Latencies
from uproxy.bench.load import wire
from uproxy.bench.load.plan import LoadOutcome, LoadPlan
from uproxy.bench.load.python import http
from uproxy.bench.load.target import Target

NS_PER_S = 1_000_000_000
_MS = 1_000_000
_SWEEP_NS = 50 * _MS
_RETRY_NS = _MS
_HANDSHAKES = 128
_LONGEST_REST_DOUBLINGS = 7
RECEIVE = 256 * 1024

_KINDS = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.ETIMEDOUT: "timeout",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.EADDRNOTAVAIL: "no-local-port",
    errno.EMFILE: "no-descriptor",
    errno.ENFILE: "no-descriptor",
}


class State(Enum):
    """Where a connection stands."""

    CLOSED = auto()
    CONNECTING = auto()
    FREE = auto()
    WAITING = auto()
    RESTING = auto()


class Connection:
    """One connection's socket, and the operation on it."""

    def __init__(self) -> None:
        self.socket: socket.socket | None = None
        self.state = State.CLOSED
        self.busy = False
        """An operation is under way, even while connecting."""
        self.is_queued = False
        self.endpoint = ""
        self.failures = self.sequence = self.answers = 0
        self.due_ns = self.sent_ns = self.free_ns = self.retry_ns = 0
        self.incoming = wire.Incoming()
        self.outgoing = memoryview(b"")
        self.reply = http.Reply()
        self.read_by_server = 0
        self.ended = False


class Worker(ABC):
    """What all workloads share. Times are of the monotonic clock, in ns."""

    def __init__(self, plan: LoadPlan, target: Target) -> None:
        self.plan = plan
        self.connections = [Connection() for _ in range(plan.connections)]
        self.started = False
        self.busy = 0
        self.measure_ns = self.end_ns = 0
        self.operations = self.bytes_up = self.bytes_down = self.sent = self.behind = self.stuck = (
            self.held
        ) = 0
        self.errors: Counter[str] = Counter()
        self.by_endpoint: Counter[str] = Counter()
        self.corrected, self.uncorrected = Latencies(), Latencies()
        self._target = target
        self.is_udp = plan.workload == "udp-rr"
        self._is_stream = plan.workload.startswith("stream")
        self.opens_each = plan.workload in ("crr", "connect")
        self._timeout_ns = int(plan.timeout_s * NS_PER_S)
        self._epoll = select.epoll()
        self._by_fd: dict[int, Connection] = {}
        self._connecting = self._resting = 0
        self._swept_ns = 0
        self._usage: resource.struct_rusage | None = None
        self._usage_ns = 0
        self._user_s = self._system_s = self._cpu_share = 0.0

    @abstractmethod
    def ready(self, connection: Connection, now: int) -> None:
        """A connection is open, and without work."""

    @abstractmethod
    def on_event(self, connection: Connection, events: int) -> None:
        """Something happened on an open connection."""

    @abstractmethod
    def work(self) -> None:
        """Do all of it."""

    def elapsed_s(self) -> float:
        """Return the measured time."""
        return (self.end_ns - self.measure_ns) / NS_PER_S

    def outcome(self) -> LoadOutcome:
        """Do all of it, and tell."""
        self.work()
        for connection in self.connections:
            self.close(connection)
        self._epoll.close()
        return LoadOutcome(
            workload=self.plan.workload,
            generator="python",
            operations=self.operations,
            elapsed_s=self.elapsed_s(),
            bytes_up=self.bytes_up,
            bytes_down=self.bytes_down,
            errors_by_kind=dict(self.errors),
            corrected=None,
            uncorrected=None,
            generator_user_s=self._user_s,
            generator_system_s=self._system_s,
            cpu_share=self._cpu_share,
            behind_schedule=self.behind / max(self.sent, 1),
            by_endpoint=dict(self.by_endpoint),
            longest_gap_ms=0.0,
            stuck=self.stuck,
            held=self.held,
        )

    # ---- the loop ----

    def pump(self, deadline_ns: int) -> None:
        """Wait once, until `deadline_ns` at most; handle what came; retry, and time out."""
        next_sweep = self._swept_ns + (_RETRY_NS if self._resting else _SWEEP_NS)
        left_ns = min(deadline_ns, next_sweep) - time.monotonic_ns()
        if left_ns > 0:
            # epoll's timeout is in milliseconds here, select's is not, and an epoll can be selected.
            select.select([self._epoll], (), (), left_ns / NS_PER_S)
        for fd, events in self._epoll.poll(0):
            self._dispatch(self._by_fd[fd], events)
        now = time.monotonic_ns()
        if now >= self._swept_ns + (_RETRY_NS if self._resting else _SWEEP_NS):
            self._sweep(now)
        if self.started and self._usage is None and now >= self.measure_ns:
            self._usage, self._usage_ns = resource.getrusage(resource.RUSAGE_THREAD), now

    def wake_by(self, phase_end_ns: int) -> int:
        """Return when to look up: at the end of a phase, or of the warm-up before it."""
        return phase_end_ns if self._usage else min(phase_end_ns, self.measure_ns)

    def stop_cpu_clock(self) -> None:
        """The measured time is over."""
        after, before = resource.getrusage(resource.RUSAGE_THREAD), self._usage
        if before is not None:
            self._user_s = after.ru_utime - before.ru_utime
            self._system_s = after.ru_stime - before.ru_stime
            wall_s = (time.monotonic_ns() - self._usage_ns) / NS_PER_S
            self._cpu_share = (self._user_s + self._system_s) / wall_s

    def establish(self) -> None:
        """Open all connections, some at a time."""
        patience = time.monotonic_ns() + self._timeout_ns
        waiting = iter(self.connections)
        unopened = True
        while (unopened or self._connecting) and time.monotonic_ns() < patience:
            room = max(0, _HANDSHAKES - self._connecting)
            batch = list(itertools.islice(waiting, room))
            unopened = len(batch) == room
            for connection in batch:
                self.open(connection, time.monotonic_ns())
            self.pump(patience)
        for connection in waiting:
            self.open(connection, time.monotonic_ns())

    def start_clock(self) -> int:
        """Begin the warm-up, and return when that was."""
        start = time.monotonic_ns()
        self.measure_ns = start + int(self.plan.warmup_s * NS_PER_S)
        self.end_ns = self.measure_ns + int(self.plan.duration_s * NS_PER_S)
        self.started = True
        return start

    def _sweep(self, now: int) -> None:
        self._swept_ns = now
        for connection in self.connections:
            waits = connection.busy or connection.state is State.CONNECTING
            if connection.state is State.RESTING and connection.retry_ns <= now:
                self._wake(connection, now)
            elif waits and connection.sent_ns + self._timeout_ns <= now:
                self.fail(connection, "timeout", now)

    def _wake(self, connection: Connection, now: int) -> None:
        self._resting -= 1
        connection.state = State.CLOSED
        if self.opens_each:
            self.ready(connection, now)
        else:
            self.open(connection, now)

    # ---- a connection's life ----

    def open(self, connection: Connection, now: int) -> None:
        """Begin the handshake; `ready` follows, or the operation that waits for it."""
        connection.incoming.clear()
        connection.outgoing = memoryview(b"")
        connection.reply.clear()
        connection.sent_ns = now
        connection.ended = False
        connection.read_by_server = 0
        try:
            self._connect(connection)
        except OSError as error:
            self.fail(connection, _kind(error), now)
            return
        if self.is_udp:
            self.ready(connection, now)
        else:
            connection.state = State.CONNECTING
            self._connecting += 1

    def _connect(self, connection: Connection) -> None:
        kind = socket.SOCK_DGRAM if self.is_udp else socket.SOCK_STREAM
        made = connection.socket = socket.socket(self._target.family, kind)
        made.setblocking(False)
        if not self.is_udp:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        number = made.connect_ex(self._target.socket_address)
        if number not in (0, errno.EINPROGRESS):
            raise OSError(number, "connect")
        events = select.EPOLLIN if self.is_udp else select.EPOLLIN | select.EPOLLOUT
        if not self.is_udp and not self._is_stream:
            events |= select.EPOLLET
        self._by_fd[made.fileno()] = connection
        self._epoll.register(made.fileno(), events)

    def watch(self, connection: Connection, events: int) -> None:
        """Change what a stream waits for."""
        self._epoll.modify(_socket(connection).fileno(), events)

    def close(self, connection: Connection) -> None:
        """Close its socket, if any."""
        if connection.state is State.CONNECTING:
            self._connecting -= 1
        if connection.socket is not None:
            self._by_fd.pop(connection.socket.fileno(), None)
            connection.socket.close()
        connection.socket = None
        connection.state = State.CLOSED

    def begin(self, connection: Connection, due: int, now: int) -> None:
        """An operation is under way from here."""
        connection.busy = True
        connection.due_ns, connection.sent_ns = due, now
        self.busy += 1

    def finish(self, connection: Connection) -> None:
        """Its operation is no longer under way."""
        self.busy -= connection.busy
        connection.busy = False
        connection.failures = 0

    def fail(self, connection: Connection, kind: str, now: int) -> None:
        """Count an error, close, and open again after a rest."""
        at = connection.due_ns if connection.busy else now
        failures = connection.failures
        if not self.started or at >= self.measure_ns:
            self.errors[kind] += 1
            if connection.busy and kind == "timeout" and not self._is_stream:
                self.corrected.record(now - connection.due_ns)
        self.finish(connection)
        self.close(connection)
        connection.failures = min(failures + 1, _LONGEST_REST_DOUBLINGS)
        if self.plan.workload == "idle" and self.started:
            return  # a held connection that is lost stays lost
        connection.state = State.RESTING
        connection.retry_ns = now + (_MS << failures)
        self._resting += 1

    def push(self, connection: Connection) -> None:
        """Send what the socket takes now."""
        try:
            taken = _socket(connection).send(connection.outgoing)
        except BlockingIOError:
            return
        except OSError as error:
            self.fail(connection, _kind(error), time.monotonic_ns())
            return
        connection.outgoing = connection.outgoing[taken:]

    def _dispatch(self, connection: Connection, events: int) -> None:
        if connection.state is State.CONNECTING:
            self._end_handshake(connection)
        else:
            self.on_event(connection, events)

    def _end_handshake(self, connection: Connection) -> None:
        number = _socket(connection).getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        now = time.monotonic_ns()
        if number:
            self.fail(connection, _KINDS.get(number, "other"), now)
            return
        self._connecting -= 1
        connection.state = State.FREE
        self.established(connection, now)

    def receive_some(self, connection: Connection) -> bytes | None:
        """Read once; None when there is nothing, or the connection has failed."""
        try:
            data = _socket(connection).recv(RECEIVE)
        except BlockingIOError:
            return None
        except OSError as error:
            self.fail(connection, _kind(error), time.monotonic_ns())
            return None
        if not data and not self.is_udp:
            self.end_of_file(connection)
            return None
        return data

    def established(self, connection: Connection, now: int) -> None:
        """The handshake went well."""
        self.ready(connection, now)

    def end_of_file(self, connection: Connection) -> None:
        """The server has closed."""
        self.fail(connection, "eof", time.monotonic_ns())


def _socket(connection: Connection) -> socket.socket:
    if connection.socket is None:
        raise AssertionError("a connection without a socket was used")
    return connection.socket


def _kind(error: OSError) -> str:
    return _KINDS.get(error.errno or 0, "other")
