"""What endpoints have had, by what conntrack remembers of each connection. Pure.

Owns adding up: conntrack has counters of connections, and forgets those that are over after 10 s (reset), two
minutes (TCP) or 30 s without a datagram (UDP). Who looks more often than that misses nobody.
"""

from collections.abc import Collection, Iterable

from uproxy.handoff.mechanism import Counts, Key
from uproxy.handoff.payload import counts as as_counts
from uproxy.handoff.payload import payload
from uproxy.kernel.conntrack_looks import Alike, Traffic
from uproxy.model.names import ServicePortName


class Tally:
    """Of each endpoint of each Service port: the counts of all looks together, what is open by the last."""

    def __init__(self) -> None:
        self._sums: dict[Key, Traffic] = {}
        self._open: dict[Key, int] = {}

    def clear(self) -> None:
        """Begin anew."""
        self._sums.clear()
        self._open.clear()

    def see(self, looked: Iterable[tuple[Key, Alike]]) -> None:
        """Add what a look has seen, of whom."""
        self._open.clear()
        for key, alike in looked:
            self._add(key, alike.more)
            self._open[key] = self._open.get(key, 0) + alike.open

    def _add(self, key: Key, more: Traffic) -> None:
        before = self._sums.get(key, Traffic())
        self._sums[key] = Traffic(*(one + other for one, other in zip(before, more, strict=True)))

    def open(self, names: Iterable[ServicePortName]) -> dict[ServicePortName, int]:
        """What is open of each of these Service ports, of which all that is counted is."""
        found = dict.fromkeys(names, 0)
        for (name, _), count in self._open.items():
            found[name] += count
        return found

    def counts(self) -> dict[Key, Counts]:
        """All that everybody has had who has had anything."""
        return {key: _counts(key, its) for key, its in self._sums.items()}

    def forget(self, keys: Collection[Key]) -> None:
        """Their counts would begin at nothing."""
        for key in keys:
            self._sums.pop(key, None)


def _counts(key: Key, its: Traffic) -> Counts:
    name, backend = key
    family, protocol = backend.ip.version, name.protocol
    return as_counts(
        protocol,
        its.connections,
        payload(family, protocol, its.packets_to, its.bytes_to),
        payload(family, protocol, its.packets_back, its.bytes_back),
    )
