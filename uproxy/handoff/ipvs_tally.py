"""What endpoints have had by IPVS: the kernel's counters, made into counts that never go back.

Owns what destinations that are no more have had, and what others had before they were ours. Refuses to ask
the kernel: it is given what `kernel/ipvs.py` has read.

The kernel adds up every two seconds; what came later than that for a UDP endpoint that goes is told when it
comes back, or never. It keeps a removed destination for minutes, and its counters should it come back.
Source: ip_vs_est.c and ip_vs_ctl.c in Linux.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable

from uproxy.handoff.mechanism import Counts, Key
from uproxy.handoff.payload import counts as as_counts
from uproxy.handoff.payload import payload
from uproxy.kernel.ipvs import Traffic
from uproxy.model.frontend import Backend
from uproxy.model.names import ServicePortName, Vip

_NOTHING = Counts(0, 0, 0)


class Tally:
    """Counts of each endpoint of each Service port, of destinations that are and of those that were."""

    def __init__(self) -> None:
        self._before: dict[tuple[Vip, Backend], Traffic] = {}
        self._ended: dict[Key, Counts] = {}
        self._told: dict[Key, Counts] = {}

    def clear(self) -> None:
        """Begin anew."""
        for its in (self._before, self._ended, self._told):
            its.clear()

    def begins(self, vip: Vip, backend: Backend, traffic: Traffic) -> None:
        """A destination is ours from now on, and what it has had already was not."""
        self._before[vip, backend] = traffic

    def ends(self, owner: ServicePortName | None, vip: Vip, backend: Backend, traffic: Traffic) -> None:
        """A destination is no more; what it had while nobody owned it is nobody's."""
        if owner is not None:
            more = self._since(vip, backend, traffic)
            self._ended[owner, backend] = _sum(self._ended.get((owner, backend), _NOTHING), more)
        self._before.pop((vip, backend), None)

    def tell(self, now: Iterable[tuple[ServicePortName, Vip, Backend, Traffic]]) -> dict[Key, Counts]:
        """All counts, where this is what destinations have had by now."""
        found: defaultdict[Key, Counts] = defaultdict(lambda: _NOTHING, self._ended)
        for owner, vip, backend, traffic in now:
            found[owner, backend] = _sum(found[owner, backend], self._since(vip, backend, traffic))
        for key, before in self._told.items():
            if key in found:
                # Segments without timestamps are smaller than what is taken off for their headers.
                found[key] = Counts(*map(max, found[key], before))
        self._told = dict(found)
        return dict(found)

    def forget(self, live: Collection[Key]) -> list[Key]:
        """Who has been told to the end, and has no destination any more: counts would begin at nothing."""
        gone = [
            key for key, counts in self._ended.items() if key not in live and self._told.get(key) == counts
        ]
        for key in gone:
            del self._ended[key], self._told[key]
        return gone

    def _since(self, vip: Vip, backend: Backend, now: Traffic) -> Counts:
        before = self._before.get((vip, backend), Traffic())
        connections, packets_in, packets_out, bytes_in, bytes_out = (
            max(0, one - other) for one, other in zip(now, before, strict=True)
        )
        family, protocol = vip.family, vip.protocol
        to_backend = payload(family, protocol, packets_in, bytes_in)
        return as_counts(protocol, connections, to_backend, payload(family, protocol, packets_out, bytes_out))


def _sum(one: Counts, other: Counts) -> Counts:
    return Counts(*(a + b for a, b in zip(one, other, strict=True)))
