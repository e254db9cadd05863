"""Which backend is next. Pure: the time and the client are passed in.

Owns the order (true round robin) and ClientIP session affinity. Knows of ejection only
that a backend which sits out is passed over, unless all do.
"""

from collections.abc import Collection
from typing import NamedTuple

from uproxy.dataplane.backends import BackendState

AFFINITY_CLIENTS_MAX = 65_536
"""Clients remembered per Service port; beyond it, who was away longest is forgotten."""


class _Pin(NamedTuple):
    state: BackendState
    used_s: float


class RoundRobin:
    """The usable backends of one Service port and family, each in turn.

    `start` says where the turn begins; a random number keeps many proxies from all
    sending their first connection to the same backend.
    """

    __slots__ = ("_next", "_pins", "affinity_timeout_s", "backends")

    def __init__(self, start: int = 0) -> None:
        self.backends: tuple[BackendState, ...] = ()
        self.affinity_timeout_s: int | None = None
        self._next = start
        self._pins: dict[str, _Pin] = {}  # in order of last use

    def replace(self, backends: tuple[BackendState, ...], affinity_timeout_s: int | None) -> None:
        """Balance over `backends` from now on; the turn goes on where it was.

        Clients pinned to a backend that is gone are released; a changed timeout holds
        for everybody at once.
        """
        self._next = self._resume_at(backends)
        self.backends = backends
        self.affinity_timeout_s = affinity_timeout_s
        if affinity_timeout_s is None:
            self._pins.clear()
        elif self._pins:
            stay = set(map(id, backends))
            self._pins = {client: pin for client, pin in self._pins.items() if id(pin.state) in stay}

    def pick(self, client: str, now_s: float, tried: Collection[BackendState] = ()) -> BackendState | None:
        """The backend for a new connection of `client`, none of those it `tried` already.

        None when there is no backend, or all were tried.
        """
        if self.affinity_timeout_s is None:
            return self._in_turn(now_s, tried)
        pin = self._pins.pop(client, None)
        if pin is None or not self._holds(pin, now_s, tried):
            state = self._in_turn(now_s, tried)
            if state is None:
                return None
            pin = _Pin(state, now_s)
        self._remember(client, pin.state, now_s)
        return pin.state

    def _in_turn(self, now_s: float, tried: Collection[BackendState]) -> BackendState | None:
        backends = self.backends
        count = len(backends)
        fallback = None
        for _ in range(count):
            at = self._next if self._next < count else self._next % count
            self._next = at + 1
            state = backends[at]
            if state in tried:
                continue
            if state.sits_out_until_s <= now_s:
                return state
            if fallback is None:
                fallback = state  # everybody sits out: better this one than none
        return fallback

    def _resume_at(self, backends: tuple[BackendState, ...]) -> int:
        """Where in `backends` the turn goes on: at the first that was next and stays."""
        if not self.backends:
            return self._next
        places = {id(state): place for place, state in enumerate(backends)}
        count = len(self.backends)
        for step in range(count):
            place = places.get(id(self.backends[(self._next + step) % count]))
            if place is not None:
                return place
        return self._next

    def _holds(self, pin: _Pin, now_s: float, tried: Collection[BackendState]) -> bool:
        timeout_s = self.affinity_timeout_s or 0
        return (
            now_s - pin.used_s <= timeout_s and pin.state not in tried and pin.state.sits_out_until_s <= now_s
        )

    def _remember(self, client: str, state: BackendState, now_s: float) -> None:
        pins = self._pins
        pins[client] = _Pin(state, now_s)
        oldest = next(iter(pins))
        expired = now_s - pins[oldest].used_s > (self.affinity_timeout_s or 0)
        if expired or len(pins) > AFFINITY_CLIENTS_MAX:
            del pins[oldest]
