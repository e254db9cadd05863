"""Round robin: each backend in turn. Pure."""

from collections.abc import Collection

from uproxy.picking.backends import BackendState


class RoundRobin:
    """Each backend in turn, to within one connection.

    `start` says where the turn begins; a random number keeps many proxies from all
    sending their first connection to the same backend.
    """

    __slots__ = ("_backends", "_next")

    def __init__(self, start: int = 0) -> None:
        self._backends: tuple[BackendState, ...] = ()
        self._next = start

    def replace(self, backends: tuple[BackendState, ...], _now_s: float) -> None:
        """Choose among `backends` from now on; the turn goes on where it was."""
        self._next = self._resume_at(backends)
        self._backends = backends

    def pick(self, _client: str, now_s: float, tried: Collection[BackendState] = ()) -> BackendState | None:
        """Whose turn it is; who sits out is passed over, unless all do."""
        backends = self._backends
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
        if not self._backends:
            return self._next
        places = {id(state): place for place, state in enumerate(backends)}
        count = len(self._backends)
        for step in range(count):
            place = places.get(id(self._backends[(self._next + step) % count]))
            if place is not None:
                return place
        return self._next
