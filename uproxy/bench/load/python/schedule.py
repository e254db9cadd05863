"""Which operation starts when, and what counts; native/schedule.c is its twin, with the reasons."""

import time
from collections import deque

from msgspec.structs import replace

from uproxy.bench.load.plan import LoadOutcome, LoadPlan
from uproxy.bench.load.python.exchange import ExchangeWorker
from uproxy.bench.load.python.worker import NS_PER_S, Connection, State
from uproxy.bench.load.target import Target

_LATE_NS = 1_000_000
_DRAIN_NS = NS_PER_S


class ScheduleWorker(ExchangeWorker):
    """Exchanges: rr, crr, connect, udp-rr."""

    def __init__(self, plan: LoadPlan, target: Target) -> None:
        super().__init__(plan, target)
        self._free: deque[Connection] = deque()
        self._interval_ns = NS_PER_S / plan.rate_per_s if plan.rate_per_s else 0.0
        self._start_ns = 0
        self._issued = 0
        self._last_completion_ns = 0
        self._longest_gap_ns = 0

    def work(self) -> None:
        """Warm up, measure, and wait a second for the last answers."""
        if self.opens_each:
            for connection in self.connections:
                self.ready(connection, 0)
        else:
            self.establish()
        self._start_ns = self.start_clock()
        self._last_completion_ns = self.measure_ns
        self._issue()
        while time.monotonic_ns() < self.end_ns:
            self.pump(self._next_wake())
            self._issue()
        self.stop_cpu_clock()
        self._longest_gap_ns = max(self._longest_gap_ns, self.end_ns - self._last_completion_ns)
        drained = self.end_ns + _DRAIN_NS
        while self._has_work() and time.monotonic_ns() < drained:
            self.pump(drained)
            self._issue()
        self._count_stuck()

    def outcome(self) -> LoadOutcome:
        """Do all of it, and tell, with latencies."""
        return replace(
            super().outcome(),
            corrected=self.corrected.encode(),
            uncorrected=self.uncorrected.encode(),
            longest_gap_ms=self._longest_gap_ns / 1e6,
        )

    def ready(self, connection: Connection, now: int) -> None:
        """Give it the operation that is due, or queue it."""
        connection.state = State.FREE
        connection.free_ns = now
        due = self._take_due(now)
        if due is not None:
            self._start(connection, due, now)
        elif not connection.is_queued:
            connection.is_queued = True
            self._free.append(connection)

    def answered(self, connection: Connection, now: int) -> None:
        """Count it, and let the connection go on."""
        self._count(connection, now)
        closes = connection.reply.is_last
        connection.reply.clear()
        self.finish(connection)
        if not self.opens_each and not closes:
            self.ready(connection, now)
            return
        self.close(connection)
        if self.opens_each:
            self.ready(connection, time.monotonic_ns())
        else:
            self.open(connection, now)

    def _next_due(self) -> int:
        return self._start_ns + int(self._issued * self._interval_ns)

    def _take_due(self, now: int) -> int | None:
        if not self.started:
            return None
        due = self._next_due() if self._interval_ns else now
        if due > now or due >= self.end_ns:
            return None
        self._issued += 1
        return due

    def _start(self, connection: Connection, due: int, now: int) -> None:
        if due >= self.measure_ns:
            self.sent += 1
            self.behind += now - max(due, connection.free_ns) > _LATE_NS
        self.begin(connection, due, now)
        if self.opens_each:
            self.open(connection, now)
        else:
            self.ask(connection)

    def _issue(self) -> None:
        while self._free:
            connection = self._free[0]
            is_free = connection.state is State.FREE and not connection.busy
            now = time.monotonic_ns()
            due = self._take_due(now) if is_free else None
            if is_free and due is None:
                return
            self._free.popleft().is_queued = False
            if due is not None:
                self._start(connection, due, now)

    def _count(self, connection: Connection, now: int) -> None:
        if self.measure_ns <= now < self.end_ns:
            self.operations += 1
            if self.plan.protocol == "bench":
                self.bytes_up += self.message_bytes
                self.bytes_down += self.reply_bytes
                self.by_endpoint[connection.endpoint] += 1
            self._longest_gap_ns = max(self._longest_gap_ns, now - self._last_completion_ns)
            self._last_completion_ns = now
        if connection.due_ns >= self.measure_ns:
            self.corrected.record(now - connection.due_ns)
            self.uncorrected.record(now - connection.sent_ns)

    def _next_wake(self) -> int:
        wake = self.wake_by(self.end_ns)
        return min(wake, self._next_due()) if self._interval_ns and self._free else wake

    def _has_work(self) -> bool:
        return bool(self.busy) or (self._interval_ns > 0 and self._next_due() < self.end_ns)

    def _count_stuck(self) -> None:
        now = time.monotonic_ns()
        waiting = [connection.due_ns for connection in self.connections if connection.busy]
        while self._interval_ns and (due := self._take_due(now)) is not None:
            waiting.append(due)
        for due in waiting:
            if due >= self.measure_ns:
                self.stuck += 1
                self.corrected.record(now - due)
