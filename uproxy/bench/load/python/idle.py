"""Connections that are opened, asked once, held in silence, and asked again."""

import sys
import time

from uproxy.bench.load.python.exchange import ExchangeWorker
from uproxy.bench.load.python.worker import Connection, State


class IdleWorker(ExchangeWorker):
    """Connections held; native/idle.c is its twin."""

    def work(self) -> None:
        """Open, hold, and count who is left."""
        self.establish()
        self._ask_all()
        sys.stderr.write(f"holding {sum(c.answers >= 1 for c in self.connections)}\n")
        self.start_clock()
        while time.monotonic_ns() < self.end_ns:
            self.pump(self.wake_by(self.end_ns))
        self.stop_cpu_clock()
        self._ask_all()
        held = [connection for connection in self.connections if connection.answers == 2]
        self.held = self.operations = len(held)
        self.by_endpoint.update(connection.endpoint for connection in held)

    def ready(self, connection: Connection, now: int) -> None:
        """Nothing to do yet."""
        connection.state = State.FREE
        connection.free_ns = now

    def answered(self, connection: Connection, now: int) -> None:
        """It is alive."""
        connection.answers += 1
        self.finish(connection)
        self.ready(connection, now)

    def _ask_all(self) -> None:
        for connection in self.connections:
            if connection.state is State.FREE:
                now = time.monotonic_ns()
                self.begin(connection, now, now)
                self.ask(connection)
        while self.busy:
            self.pump(time.monotonic_ns() + 1_000_000_000)  # the sweep ends what has no answer
