"""The clock of the Python relay's connections: one pass over all of them instead of a timer for each.

Owns idle and half-closed timeouts, and giving pipes back. Nothing is written when bytes
pass; a pass compares byte counts with those it saw before, so a timeout is late by at
most one interval.
"""

from collections.abc import Collection, Iterator
from itertools import islice

from uproxy.dataplane.connection import Connection
from uproxy.dataplane.context import Context, Timeouts
from uproxy.model.closing import CloseReason

_INTERVAL_MAX_S = 5.0
_INTERVALS_A_TIMEOUT = 8
_SLICE = 1000


def sweep_interval_s(timeouts: Timeouts) -> float:
    """How long to wait between two passes."""
    return min(_INTERVAL_MAX_S, min(timeouts.idle_s, timeouts.half_closed_s) / _INTERVALS_A_TIMEOUT)


class Sweeper:
    """Visits every connection from time to time."""

    def __init__(self, context: Context, live: Collection[Connection]) -> None:
        self._context = context
        self._live = live
        self._interval_s = sweep_interval_s(context.timeouts)
        self._timer = context.loop.call_later(self._interval_s, self._begin)

    def close(self) -> None:
        """Visit nobody any more."""
        self._timer.cancel()

    def _begin(self) -> None:
        self._visit(iter(list(self._live)))

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
        pair = connection.pair
        if pair is None or pair.closed:
            return  # still dialling, which has its own clock, or ended meanwhile
        pair.keep_alive()
        total = pair.bytes_to_backend + pair.bytes_to_client
        if total != connection.quiet_bytes:
            connection.quiet_bytes = total
            connection.quiet_since_s = now_s
            return
        pair.give_back()
        quiet_s = now_s - connection.quiet_since_s
        timeouts = self._context.timeouts
        if pair.half_closed and quiet_s >= timeouts.half_closed_s:
            connection.reset(CloseReason.HALF_CLOSED_TIMEOUT)
        elif quiet_s >= timeouts.idle_s:
            connection.reset(CloseReason.IDLE_TIMEOUT)
