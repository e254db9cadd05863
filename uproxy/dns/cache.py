"""Answers from upstream, kept for as long as their TTLs allow.

Pure: `now_s` comes in. Bounded; the longest unused goes first.
"""

from collections import OrderedDict
from typing import NamedTuple

from uproxy.dns.wire import Rcode, Record, Type

MOST_ENTRIES = 10_000
_LONGEST_S = 3600
NEGATIVE_S = 5
"""How long an absence is kept here that came without its SOA, which says how long (RFC 2308 5)."""

_Key = tuple[bytes, int, bool]


class Outcome(NamedTuple):
    """What upstream said: NOERROR without records is NODATA."""

    rcode: Rcode
    records: tuple[Record, ...] = ()
    authority: tuple[Record, ...] = ()
    """Who says that there is none, and with DNSSEC the proof."""


class _Kept(NamedTuple):
    outcome: Outcome
    since_s: float
    until_s: float


class Cache:
    """Outcomes by name, in lower case, type, and whether signatures come with them."""

    def __init__(self, most: int = MOST_ENTRIES) -> None:
        self._most = most
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, name: bytes, kind: int, now_s: float, *, dnssec: bool = False) -> Outcome | None:
        """The outcome, its TTLs less the time that it has been here; None when it is not, or too old."""
        key = (name, kind, dnssec)
        kept = self._kept.get(key)
        if kept is None:
            return None
        if now_s >= kept.until_s:
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        age_s = int(now_s - kept.since_s)
        rcode, records, authority = kept.outcome
        return Outcome(rcode, _aged(records, age_s), _aged(authority, age_s))

    def put(self, name: bytes, kind: int, outcome: Outcome, now_s: float, *, dnssec: bool = False) -> None:
        """Keep an answer, or that there is none; a failure is not kept."""
        if outcome.rcode not in (Rcode.NOERROR, Rcode.NXDOMAIN):
            return
        kept_s = _lifetime_s(outcome)
        if kept_s <= 0:
            return
        key = (name, kind, dnssec)
        self._kept[key] = _Kept(outcome, now_s, now_s + min(kept_s, _LONGEST_S))
        self._kept.move_to_end(key)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)


def _aged(records: tuple[Record, ...], age_s: int) -> tuple[Record, ...]:
    return tuple(record._replace(ttl_s=max(record.ttl_s - age_s, 0)) for record in records)


def _lifetime_s(outcome: Outcome) -> int:
    """By the shortest TTL; the SOA of an absence has another one at its end (RFC 2308 5)."""
    lasting = [record.ttl_s for record in (*outcome.records, *outcome.authority)]
    lasting += [int.from_bytes(record.data[-4:]) for record in outcome.authority if record.type == Type.SOA]
    return min(lasting, default=NEGATIVE_S)
