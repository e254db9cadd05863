"""Answers from upstream, kept for as long as their TTLs allow.

Pure: `now_s` comes in. Bounded; the longest unused goes first.
"""

from collections import OrderedDict
from typing import NamedTuple

from uproxy.dns.wire import Rcode, Record

MOST_ENTRIES = 10_000
_LONGEST_S = 3600
NEGATIVE_S = 5
"""How long an absence is kept here. The library keeps the SOA, which says how long (RFC 2308 5), to
itself; it has a cache of its own by that rule behind this one."""

_Key = tuple[bytes, int]


class Outcome(NamedTuple):
    """What upstream said: NOERROR without records is NODATA."""

    rcode: Rcode
    records: tuple[Record, ...] = ()


class _Kept(NamedTuple):
    outcome: Outcome
    since_s: float
    until_s: float


class Cache:
    """Outcomes by name, in lower case, and type."""

    def __init__(self, most: int = MOST_ENTRIES) -> None:
        self._most = most
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, name: bytes, kind: int, now_s: float) -> Outcome | None:
        """The outcome, its TTLs less the time that it has been here; None when it is not, or too old."""
        kept = self._kept.get((name, kind))
        if kept is None:
            return None
        if now_s >= kept.until_s:
            del self._kept[name, kind]
            return None
        self._kept.move_to_end((name, kind))
        age_s = int(now_s - kept.since_s)
        records = tuple(r._replace(ttl_s=max(r.ttl_s - age_s, 0)) for r in kept.outcome.records)
        return kept.outcome._replace(records=records)

    def put(self, name: bytes, kind: int, outcome: Outcome, now_s: float) -> None:
        """Keep an answer, or that there is none; a failure is not kept."""
        if outcome.rcode not in (Rcode.NOERROR, Rcode.NXDOMAIN):
            return
        kept_s = min((record.ttl_s for record in outcome.records), default=NEGATIVE_S)
        if kept_s <= 0:
            return
        self._kept[name, kind] = _Kept(outcome, now_s, now_s + min(kept_s, _LONGEST_S))
        self._kept.move_to_end((name, kind))
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
