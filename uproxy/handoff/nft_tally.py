"""Connections that elements have counted, told by whose they are. Pure.

An element counts for an address and an endpoint, whoever has them; when they change hands it counts on. Owns
what each has counted by the last look, so that what comes later is of who has them then.
"""

from collections.abc import Collection, Iterable, Mapping

from uproxy.handoff.mechanism import Key
from uproxy.handoff.nft_batch import Counter


class FirstPackets:
    """Sums for each endpoint of each Service port, which do not fall."""

    def __init__(self) -> None:
        self._seen: dict[Counter, int] = {}
        self._sums: dict[Key, int] = {}

    def clear(self) -> None:
        """Begin anew."""
        self._seen.clear()
        self._sums.clear()

    def see(self, counted: Iterable[tuple[Counter, Key, int]]) -> None:
        """What elements that have counted anything say now, and whose they are."""
        for counter, key, packets in counted:
            before = self._seen.get(counter, 0)
            more = packets - before if packets >= before else packets
            self._seen[counter] = packets
            self._sums[key] = self._sums.get(key, 0) + more

    def sums(self) -> Mapping[Key, int]:
        """Of those that have had any."""
        return self._sums

    def gone(self, counters: Iterable[Counter]) -> None:
        """Elements that are deleted: should they come back, they begin at nothing."""
        for counter in counters:
            self._seen.pop(counter, None)

    def forget(self, keys: Collection[Key]) -> None:
        """Their counts would begin at nothing."""
        for key in keys:
            self._sums.pop(key, None)
