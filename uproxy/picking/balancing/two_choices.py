"""Power of two choices: the less loaded of two backends that are drawn by lot. Pure.

Nearly as even as asking all of them, at a cost that does not grow with their number; and many proxies
that see the same loads do not all run to the same backend (Mitzenmacher, 2001).
"""

from collections.abc import Collection, Sequence
from random import Random

from uproxy.picking.backends import BackendState
from uproxy.picking.balancing.balancer import Loads, candidates


class TwoChoices:
    """Two by lot, and the less loaded of them."""

    __slots__ = ("_backends", "_loads", "_random")

    def __init__(self, loads: Loads, random: Random) -> None:
        self._loads = loads
        self._random = random.random
        self._backends: tuple[BackendState, ...] = ()

    def replace(self, backends: tuple[BackendState, ...], _now_s: float) -> None:
        """Choose among `backends` from now on."""
        self._backends = backends

    def pick(self, _client: str, now_s: float, tried: Collection[BackendState] = ()) -> BackendState | None:
        """The better of two; who sits out is not drawn, unless all do."""
        pair = self._two(self._backends)
        for state in pair:
            if state.sits_out_until_s > now_s or state in tried:
                pair = self._two(candidates(self._backends, now_s, tried))
                break
        if len(pair) < 2:
            return pair[0] if pair else None
        one, other = self._loads(pair)
        return pair[0] if one <= other else pair[1]

    def _two(self, backends: Sequence[BackendState]) -> Sequence[BackendState]:
        """Two different ones, in random order; all, when there are no more."""
        count = len(backends)
        if count < 2:
            return backends
        first = int(self._random() * count)
        second = int(self._random() * (count - 1))
        return backends[first], backends[second + (second >= first)]
