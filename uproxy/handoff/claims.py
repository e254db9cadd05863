"""Who wants what of the things that the kernel has but once. Pure.

What is in the kernel is keyed by what a packet sees: an address, an endpoint, both. Several Service ports may
want the same key: two that lead to one Pod, a port whose name changes, an address that moves to another
Service. Owns who claims a key and whose claim counts, so that what one of them gives up stays for the others.
Refuses to know how it is programmed.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from uproxy.model.names import ServicePortName

K = TypeVar("K")
V = TypeVar("V")


class Claims(Generic[K, V]):
    """Keys, with what each Service port wants there. Of several the one of the highest rank counts, and of
    those the one that came last: who came before has not heard yet that it is his no more."""

    def __init__(self, rank: Callable[[V], int] = lambda _: 0) -> None:
        self._rank = rank
        self._of: dict[ServicePortName, Mapping[K, V]] = {}
        self._by_key: dict[K, dict[ServicePortName, V]] = {}

    def clear(self) -> None:
        """Nobody wants anything."""
        self._of.clear()
        self._by_key.clear()

    def of(self, name: ServicePortName) -> Mapping[K, V]:
        """What one of them claims."""
        return self._of.get(name, {})

    def on(self, key: K) -> Mapping[ServicePortName, V]:
        """Who claims a key."""
        return self._by_key.get(key, {})

    def owners(self) -> Iterator[tuple[K, ServicePortName, V]]:
        """Every key that is claimed, with whose claim counts."""
        for key, claims in self._by_key.items():
            name = self._owner(claims)
            yield key, name, claims[name]

    def __len__(self) -> int:
        return len(self._by_key)

    def difference(
        self, wanted: Mapping[ServicePortName, Mapping[K, V]]
    ) -> dict[K, tuple[V | None, V | None]]:
        """What counts now and what counts then, where it is not the same; None where there is nothing.
        `wanted` is all that these claim from then on, and is not settled by this."""
        found = {}
        for key, claims in self._after(wanted).items():
            before, after = self._winner(self._by_key.get(key, {})), self._winner(claims)
            if before != after:
                found[key] = before, after
        return found

    def settle(self, wanted: Mapping[ServicePortName, Mapping[K, V]]) -> None:
        """It is programmed."""
        for key, claims in self._after(wanted).items():
            if claims:
                self._by_key[key] = claims
            else:
                self._by_key.pop(key, None)
        for name, its in wanted.items():
            if its:
                self._of[name] = dict(its)
            else:
                self._of.pop(name, None)

    def _after(self, wanted: Mapping[ServicePortName, Mapping[K, V]]) -> dict[K, dict[ServicePortName, V]]:
        """Of the keys that are touched, the claims from then on."""
        found: dict[K, dict[ServicePortName, V]] = {}
        for name, its in wanted.items():
            before = self._of.get(name, {})
            for key in before.keys() | its.keys():
                if key in before and key in its and before[key] == its[key]:
                    continue
                claims = found.setdefault(key, dict(self._by_key.get(key, {})))
                if key in its:
                    claims[name] = its[key]
                else:
                    claims.pop(name, None)
        return found

    def _owner(self, claims: Mapping[ServicePortName, V]) -> ServicePortName:
        # Python's dicts are in the order in which names came.
        return max(enumerate(claims), key=lambda one: (self._rank(claims[one[1]]), one[0]))[1]

    def _winner(self, claims: Mapping[ServicePortName, V]) -> V | None:
        return claims[self._owner(claims)] if claims else None
