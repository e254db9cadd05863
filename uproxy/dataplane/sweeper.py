"""The clock of open connections: one pass over all of them instead of a timer for each.

Owns idle and half-closed timeouts, and giving pipes back. Nothing is written when bytes
pass; a pass compares byte counts with those it saw before, so a timeout is late by at
most one interval.
"""

from collections.abc import Iterator
from itertools import islice

from uproxy.dataplane.connection import Connection, Context
from uproxy.dataplane.udp import UdpFlows
from uproxy.model.closing import CloseReason

_INTERVAL_MAX_S = 5.0
_INTERVALS_A_TIMEOUT = 8
_SLICE = 1000


class Sweeper:
    """Visits every connection and flow from time to time."""

    def __init__(self, context: Context, flows: UdpFlows) -> None:
        self._context = context
        self._flows = flows
        timeouts = context.timeouts
        shortest_s = min(timeouts.idle_s, timeouts.half_closed_s)
        self._interval_s = min(_INTERVAL_MAX_S, shortest_s / _INTERVALS_A_TIMEOUT)
        self._timer = context.loop.call_later(self._interval_s, self._begin)

    def close(self) -> None:
        """Visit nobody any more."""
        self._timer.cancel()

    def _begin(self) -> None:
        self._flows.sweep(self._context.now())
        self._visit(iter(list(self._context.live)))

    def _visit(self, rest: Iterator[Connection]) -> None:
        """Visit a slice, and let traffic pass before the next."""
        now_s = self._context.now()
        some = list(islice(rest, _SLICE))
        for connection in some:
            self._check(connection, now_s)
        if some:
            self._timer = self._context.loop.call_later(0, self._visit, rest)
        else:
            self._timer = self._context.loop.call_later(self._interval_s, self._begin)

    def _check(self, connection: Connection, now_s: float) -> None:
        joined = connection.joined
        if joined is None or connection not in self._context.live:
            return  # still dialling, which has its own clock, or ended meanwhile
        total = joined.bytes_to_backend + joined.bytes_to_client
        if total != connection.quiet_bytes:
            connection.quiet_bytes = total
            connection.quiet_since_s = now_s
            return
        joined.give_back()
        quiet_s = now_s - connection.quiet_since_s
        timeouts = self._context.timeouts
        if joined.half_closed and quiet_s >= timeouts.half_closed_s:
            connection.reset(CloseReason.HALF_CLOSED_TIMEOUT)
        elif quiet_s >= timeouts.idle_s:
            connection.reset(CloseReason.IDLE_TIMEOUT)
