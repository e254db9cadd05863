"""Answers from upstream, kept for as long as their TTLs allow.

Pure: `now_s` comes in. Bounded in number and in memory; the longest unused goes first.
"""

from collections import OrderedDict
from typing import NamedTuple

from uproxy.dns.wire import Rcode, Record, Type

MOST_ENTRIES = 10_000
MOST_BYTES = 16 << 20
"""By estimate: a name can have thousands of addresses, and whoever owns it decides."""
_ENTRY_BYTES, _RECORD_BYTES = 500, 250
"""What Python needs beside the octets."""
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
    size: int


class Cache:
    """Outcomes by name, in lower case, type, and whether signatures come with them."""

    def __init__(self, most: int = MOST_ENTRIES, most_bytes: int = MOST_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self.bytes = 0
        """What is kept, by estimate."""
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
            self._drop(key)
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
        key, size = (name, kind, dnssec), _size(outcome)
        if size > self._most_bytes:
            return
        if key in self._kept:
            self._drop(key)
        self._kept[key] = _Kept(outcome, now_s, now_s + min(kept_s, _LONGEST_S), size)
        self.bytes += size
        while len(self._kept) > self._most or self.bytes > self._most_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: _Key) -> None:
        self.bytes -= self._kept.pop(key).size


def _size(outcome: Outcome) -> int:
    records = (*outcome.records, *outcome.authority)
    return _ENTRY_BYTES + sum(_RECORD_BYTES + len(each.owner) + len(each.data) for each in records)


def _aged(records: tuple[Record, ...], age_s: int) -> tuple[Record, ...]:
    return tuple(record._replace(ttl_s=max(record.ttl_s - age_s, 0)) for record in records)


def _lifetime_s(outcome: Outcome) -> int:
    """By the shortest TTL; the SOA of an absence has another one at its end (RFC 2308 5)."""
    lasting = [record.ttl_s for record in (*outcome.records, *outcome.authority)]
    lasting += [int.from_bytes(record.data[-4:]) for record in outcome.authority if record.type == Type.SOA]
    return min(lasting, default=NEGATIVE_S)
