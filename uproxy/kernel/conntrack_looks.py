"""What connections have had since the last look at conntrack. Pure.

Owns what one connection is in numbers, and the difference between two looks. Refuses to know messages
(`conntrack_messages.py`), and whose connections they are.
"""

from collections.abc import Iterable
from typing import NamedTuple

Counters = tuple[int, int, int, int]
"""Of one connection: packets and bytes to the endpoint, and back. Zeros where the kernel does not count."""
Flow = tuple[bytes, bytes, bool, Counters]
"""One connection: what it has in common with those that are alike (protocol, where it went and who answers),
what tells it from them, whether it is open, and what it has had."""
_NOTHING: Counters = (0, 0, 0, 0)


class Traffic(NamedTuple):
    """What connections have had."""

    connections: int = 0
    packets_to: int = 0
    bytes_to: int = 0
    packets_back: int = 0
    bytes_back: int = 0


class Alike(NamedTuple):
    """Connections that are alike: how many are open now, and what has come since the last look."""

    open: int
    more: Traffic


class Looks:
    """What each connection had at the last look."""

    def __init__(self) -> None:
        self._before: dict[bytes, dict[bytes, Counters]] = {}

    def look(self, flows: Iterable[Flow]) -> dict[bytes, Alike]:
        """What has come since then."""
        now: dict[bytes, dict[bytes, Counters]] = {}
        sums: dict[bytes, list[int]] = {}
        for alike, identity, is_open, counters in flows:
            if alike not in now:
                now[alike], sums[alike] = {}, [0] * 6
            seen, its = now[alike], sums[alike]
            if identity in seen:
                continue  # the kernel begins again where it was interrupted
            seen[identity] = counters
            was = self._before.get(alike, {}).get(identity)
            its[0] += is_open
            its[1] += was is None
            if counters != was:
                for index, (one, other) in enumerate(zip(counters, was or _NOTHING, strict=True), 2):
                    its[index] += max(0, one - other)
        self._before = now
        return {alike: Alike(its[0], Traffic(*its[1:])) for alike, its in sums.items()}
