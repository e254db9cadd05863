"""Least connections: the backend with the fewest open ones. Pure.

Slow start: a new backend has none, and would get every new connection at once, before its caches and
compilers are warm. Its share grows linearly instead, as with HAProxy's `slowstart`.
"""

from collections.abc import Collection

from uproxy.picking.backends import BackendState
from uproxy.picking.balancing.balancer import Loads, candidates

_WEIGHT_MIN = 0.01


class LeastConnections:
    """The least loaded backend; those that are equal take turns.

    A backend is new when others were there before it. Those that a Service begins with are not:
    all would be equally new.
    """

    __slots__ = ("_backends", "_loads", "_new_since_s", "_next", "_slow_start_s")

    def __init__(self, loads: Loads, slow_start_s: float | None = None, start: int = 0) -> None:
        self._loads = loads
        self._slow_start_s = slow_start_s or 0.0
        self._backends: tuple[BackendState, ...] = ()
        self._new_since_s: dict[BackendState, float] = {}
        self._next = start

    def replace(self, backends: tuple[BackendState, ...], now_s: float) -> None:
        """Choose among `backends` from now on."""
        if self._slow_start_s and self._backends:
            before, since_s = set(self._backends), self._new_since_s
            self._new_since_s = {
                state: since_s.get(state, now_s)
                for state in backends
                if state in since_s or state not in before
            }
        self._backends = backends

    def pick(self, _client: str, now_s: float, tried: Collection[BackendState] = ()) -> BackendState | None:
        """The least loaded one."""
        backends = self._backends
        if not backends:
            return None
        loads = self._loads(backends)
        if self._new_since_s:
            self._forget_who_is_warm(now_s)
        if not self._new_since_s:
            state = backends[self._least(loads)]
            if state.sits_out_until_s <= now_s and state not in tried:
                return state
        return self._least_of_some(loads, now_s, tried)

    def _least(self, loads: Collection[int]) -> int:
        """The place of the smallest number, in turn where there are several. Nothing here runs in Python
        for each backend: it is done for every connection."""
        listed = list(loads)
        least = min(listed)
        start = self._next % len(listed)
        try:
            at = listed.index(least, start)
        except ValueError:
            at = listed.index(least)
        self._next = at + 1
        return at

    def _least_of_some(
        self, loads: Collection[int], now_s: float, tried: Collection[BackendState]
    ) -> BackendState | None:
        """The same when some sit out, were tried, or are new."""
        count = len(self._backends)
        load_of = dict(zip(self._backends, loads, strict=True))
        place_of = {state: (place - self._next) % count for place, state in enumerate(self._backends)}
        found = min(
            candidates(self._backends, now_s, tried),
            key=lambda state: (self._weighed(state, load_of[state], now_s), place_of[state]),
            default=None,
        )
        if found is not None:
            self._next = (self._next + place_of[found] + 1) % count
        return found

    def _weighed(self, state: BackendState, load: int, now_s: float) -> float:
        """The load that a backend of full weight would have in its place. One without any has none,
        whatever its weight: an idle backend is better than a busy one."""
        since_s = self._new_since_s.get(state)
        weight = 1.0 if since_s is None else max((now_s - since_s) / self._slow_start_s, _WEIGHT_MIN)
        return (load + 1) / weight if load else 0

    def _forget_who_is_warm(self, now_s: float) -> None:
        limit_s = self._slow_start_s
        self._new_since_s = {
            state: since_s for state, since_s in self._new_since_s.items() if now_s - since_s < limit_s
        }
