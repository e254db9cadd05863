"""The clock of the Python relay's connections: one pass over all of them instead of a timer for each.

Owns idle and half-closed timeouts, the greatest age, and giving pipes back. Nothing is written when
bytes pass; a pass compares byte counts with those it saw before, so a timeout is late by at
most one interval.
"""

from collections.abc import Collection, Iterator
from itertools import islice

from uproxy.dataplane.context import Context, Timeouts
from uproxy.dataplane.relay.age import grace_s, limit_s, quiet_s, sweep_every_s
from uproxy.dataplane.relay.connection import Connection
from uproxy.dataplane.relay.half_closed import ask_every_s
from uproxy.dataplane.relay.pair import Pair
from uproxy.model.closing import CloseReason
from uproxy.picking.routes import Route

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
        self._ages_s: dict[Route, float] = {}
        self._ask_every_s = ask_every_s()
        self._rest()

    def close(self) -> None:
        """Visit nobody any more."""
        self._timer.cancel()

    def note_age(self, route: Route, age_s: float | None) -> None:
        """Connections of a route may get so old; None for any age."""
        if self._ages_s.get(route) == age_s:
            return
        if age_s is None:
            del self._ages_s[route]
        else:
            self._ages_s[route] = age_s
        if self._resting:
            self._timer.cancel()
            self._rest()

    def _rest(self) -> None:
        """Until the next pass."""
        asked_s = map(sweep_every_s, self._ages_s.values())
        interval_s = min(sweep_interval_s(self._context.timeouts), *asked_s, self._ask_every_s)
        self._resting = True
        self._timer = self._context.loop.call_later(interval_s, self._begin)

    def _begin(self) -> None:
        self._resting = False
        self._ask_every_s = ask_every_s()
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
            self._rest()

    def _check(self, connection: Connection, now_s: float) -> None:
        pair = connection.pair
        if pair is None or pair.closed:
            return  # still dialling, which has its own clock, or ended meanwhile
        pair.keep_alive()
        pair.ask_often(self._ask_every_s)
        total = pair.bytes_to_backend + pair.bytes_to_client
        moved = total != connection.quiet_bytes
        if moved:
            connection.quiet_bytes = total
            connection.quiet_since_s = now_s
        if connection.max_age_s is not None:
            self._check_age(connection, pair, connection.max_age_s, now_s)
        if moved or pair.closed:
            return
        pair.give_back()
        silent_s = now_s - connection.quiet_since_s
        timeouts = self._context.timeouts
        if pair.half_closed and silent_s >= timeouts.half_closed_s:
            connection.reset(CloseReason.HALF_CLOSED_TIMEOUT)
        elif silent_s >= timeouts.idle_s:
            connection.reset(CloseReason.IDLE_TIMEOUT)

    def _check_age(self, connection: Connection, pair: Pair, age_s: float, now_s: float) -> None:
        """End one that is too old: in order at a quiet moment, else with a reset in the end."""
        begun_s = connection.dial_started_s
        over_s = now_s - begun_s - limit_s(age_s, begun_s)
        if over_s < 0:
            return
        if pair.at_rest and now_s - connection.quiet_since_s >= quiet_s(age_s):
            pair.end(CloseReason.MAX_AGE)
        elif over_s >= grace_s(age_s):
            connection.reset(CloseReason.MAX_AGE)
