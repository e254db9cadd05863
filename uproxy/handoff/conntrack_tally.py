"""What endpoints have had, by what conntrack remembers of each connection. Pure.

Owns adding up: conntrack has counters of connections, and forgets those that are over after 10 s (reset), two
minutes (TCP) or 30 s without a datagram (UDP). Who looks more often than that misses nobody.
"""

from collections.abc import Collection, Iterable, Mapping

from uproxy.handoff.conntrack import Remembered
from uproxy.handoff.mechanism import Counts, Key
from uproxy.handoff.payload import counts as as_counts
from uproxy.handoff.payload import payload


class Tally:
    """Counts of each endpoint of each Service port."""

    def __init__(self) -> None:
        self._seen: dict[bytes, tuple[int, int]] = {}
        self._totals: dict[Key, Counts] = {}

    def clear(self) -> None:
        """Begin anew."""
        self._seen.clear()
        self._totals.clear()

    def look(self, now: Iterable[tuple[Key | None, Remembered]]) -> Mapping[Key, Counts]:
        """All counts, where `now` is what conntrack remembers, of whom."""
        before, self._seen = self._seen, {}
        for key, one in now:
            its = one.its.ip.version, one.its.protocol
            _, to, back = as_counts(
                its[1],
                1,
                payload(*its, one.packets_to, one.bytes_to),
                payload(*its, one.packets_back, one.bytes_back),
            )
            self._seen[one.identity] = to, back
            if key is None:
                continue
            was_to, was_back = before.get(one.identity, (0, 0))
            connections, all_to, all_back = self._totals.get(key, Counts(0, 0, 0))
            self._totals[key] = Counts(
                connections + (one.identity not in before),
                all_to + max(0, to - was_to),
                all_back + max(0, back - was_back),
            )
        return dict(self._totals)

    def forget(self, keys: Collection[Key]) -> None:
        """Their counts would begin at nothing."""
        for key in keys:
            self._totals.pop(key, None)
