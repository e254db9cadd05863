"""Maglev hashing: a client's address decides, and few clients move when backends change. Pure.

Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, 3.4. Every
node that sees the same backends fills the same table, so a client finds its backend through any of them.

The paper's table has 65,537 places for hundreds of machines behind one address. Filling that takes
Python 30 ms, and a Service of three endpoints gains nothing from it: places are dealt out in turn, so
shares differ by one place at most. `_SIZE` takes 1 ms, and keeps shares within 1 % of each other for
20 endpoints and within 6 % for 120; beyond that the larger table takes 6 ms, and keeps them within
13 % for 1,000. When one of 20 endpoints goes, 3 % of the other clients move.
The size depends on the backends alone, or nodes would not agree. Filling is put off until somebody
comes, so that a burst of changes costs one table.
"""

from collections.abc import Collection, Sequence
from hashlib import blake2b

from uproxy.picking.backends import BackendState

_SIZE = 2039
_SIZE_OF_MANY = 8191
_MANY = 120


class Maglev:
    """The backend at the client's place of the table, or the next one there that can be used."""

    __slots__ = ("_backends", "_table")

    def __init__(self) -> None:
        self._backends: tuple[BackendState, ...] = ()
        self._table: list[BackendState] = []

    def replace(self, backends: tuple[BackendState, ...], _now_s: float) -> None:
        """Choose among `backends` from now on."""
        if backends != self._backends:
            self._backends = backends
            self._table = []

    def pick(self, client: str, now_s: float, tried: Collection[BackendState] = ()) -> BackendState | None:
        """The client's own backend; while it sits out, another that stays the same for the client."""
        if not self._backends:
            return None
        table = self._table or self._fill()
        place = _number(client.encode()) % len(table)
        state = table[place]
        if state.sits_out_until_s <= now_s and state not in tried:
            return state
        return self._after(place, now_s, tried)

    def _after(self, place: int, now_s: float, tried: Collection[BackendState]) -> BackendState | None:
        fallback = None
        for state in (*self._table[place:], *self._table[:place]):
            if state in tried:
                continue
            if state.sits_out_until_s <= now_s:
                return state
            fallback = fallback or state
        return fallback

    def _fill(self) -> list[BackendState]:
        # In the order of their names, since the order of the slices may differ between nodes.
        ordered = sorted(self._backends, key=lambda state: (state.backend.ip.packed, state.backend.port))
        places = fill(list(map(_name, ordered)), _SIZE if len(ordered) <= _MANY else _SIZE_OF_MANY)
        self._table = [ordered[number] for number in places]
        return self._table


def _name(state: BackendState) -> bytes:
    return str(state.backend).encode()


def _number(name: bytes) -> int:
    return int.from_bytes(blake2b(name, digest_size=8).digest())


def fill(names: Sequence[bytes], size: int) -> list[int]:
    """The table: for each of `size` places, a prime number, the index of a name.

    Each name has a list of all places, in an order of its own; in turn, each takes the first on its
    list that is still free.
    """
    at = [_number(b"offset " + name) % size for name in names]
    skips = [_number(b"skip " + name) % (size - 1) + 1 for name in names]
    table = [-1] * size
    free = size
    while True:
        for number, skip in enumerate(skips):
            place = at[number]
            while table[place] >= 0:
                place += skip
                if place >= size:
                    place -= size
            table[place] = number
            at[number] = place
            free -= 1
            if not free:
                return table
