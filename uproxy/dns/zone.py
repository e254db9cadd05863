"""All names of the cluster domain, and the reverse names of its addresses, as answers ready to send.

Pure. Owns which names exist, and that a change costs what the touched Services cost, however many
others there are. Refuses to know of messages, sockets and names elsewhere.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from uproxy.dns.answers import MOST_WITH_ADDRESSES, RecordSet, Sets
from uproxy.dns.headless import HeadlessNames
from uproxy.dns.objects import Objects, Parts
from uproxy.dns.pods import PodMode, pod_address
from uproxy.dns.service_records import Entry, address_type, own_name, service_entries, standing_names
from uproxy.dns.wire import (
    HEADER_BYTES,
    ROOT,
    Record,
    Type,
    decode,
    encode,
    encode_asked,
    ends_with,
    from_text,
    join,
    labels_of,
    soa_data,
    suffixes,
    txt_data,
    with_owner,
)
from uproxy.model.events import Event
from uproxy.model.frontend import Changes
from uproxy.model.names import IPAddress, NamespacedName

SCHEMA_VERSION = b"1.1.0"
_SCHEMA_TTL_S = 28800
TTL_S = 5
_REVERSE = (from_text("in-addr.arpa"), from_text("ip6.arpa"))
_IN = b"\0\1"
_ASKED = {kind: kind.to_bytes(2) + _IN for kind in Type}
_TARGETS_AT = {Type.NS: 12, Type.SRV: 18}
"""Where in a record the name is whose addresses a client will want next."""
_NAMESPACE_DEPTH = 2
"""Labels of `NAMESPACE.svc`, before the domain."""


class Alias(NamedTuple):
    """The name is another name for the record's data, which may be anywhere."""

    record: Record


class Absent(NamedTuple):
    """There is no such record; `name_exists` tells NODATA from NXDOMAIN."""

    name_exists: bool


class Outside(NamedTuple):
    """None of this zone's names."""


OUTSIDE = Outside()
Found = RecordSet | Alias | Absent | Outside


class Zone:
    """Objects and Service ports in, answers out."""

    def __init__(
        self,
        domain: bytes,
        pod_mode: PodMode = PodMode.INSECURE,
        servers: Iterable[IPAddress] = (),
        ttl_s: int = TTL_S,
    ) -> None:
        self.domain = domain.lower()
        self.objects = Objects()
        self.serial = 1
        """Of the SOA: one more with every change that touched a name."""
        self.names: dict[bytes, tuple[RecordSet, ...]] = {}
        """Every name that is kept, in lower case, with what there is of each type; nothing at one
        that only lies on the way to another. Namespaces and pod records are worked out."""
        self.ttl_s = ttl_s
        self.pod_mode = pod_mode
        self._owned: dict[NamespacedName, tuple[bytes, ...]] = {}
        """The names that each Service has a part in, but for headless ones."""
        self._headless: dict[NamespacedName, HeadlessNames] = {}
        self._pointers: dict[bytes, tuple[tuple[NamespacedName, bytes], ...]] = {}
        """What each reverse name leads to: all Services that have the address share it."""
        self._apexes = (self.domain, *_REVERSE)
        self._soa: dict[tuple[bytes, int], bytes] = {}
        self._primary = join(b"ns", b"dns", base=self.domain)
        self._svc, self._pod = join(b"svc", base=self.domain), join(b"pod", base=self.domain)
        self._add_fixed_names(servers)

    # ---- changing ----

    def apply(self, events: Iterable[Event], changes: Changes = Changes()) -> set[NamespacedName]:  # noqa: B008
        """Take objects and Service ports as they are now; returns the Services made anew."""
        self.objects.fold(events)
        self.objects.program(changes)
        touched, self.objects.touched = self.objects.touched, set()
        for key in touched:
            self._rebuild(key)
        if touched:
            self.serial += 1
            self._soa.clear()
        return touched

    def entries(self, key: NamespacedName) -> list[Entry]:
        """All records of a Service, each with its origin."""
        parts = self.objects.parts(key)
        return service_entries(parts, self.domain) if parts is not None else []

    def _add_fixed_names(self, servers: Iterable[IPAddress]) -> None:
        primary, version = self._primary, join(b"dns-version", base=self.domain)
        addresses: Sets = {}
        for ip in servers:
            kind = address_type(ip)
            addresses.setdefault(kind, []).append(encode_asked(kind, self.ttl_s, ip.packed))
        for owner in (self._svc, self._pod, join(b"dns", base=self.domain)):
            self.names[owner] = ()
        self._put(primary, addresses, {})
        self._put(self.domain, {Type.NS: [encode_asked(Type.NS, self.ttl_s, primary)]}, {primary: addresses})
        self._put(version, {Type.TXT: [encode_asked(Type.TXT, _SCHEMA_TTL_S, txt_data(SCHEMA_VERSION))]}, {})

    def _rebuild(self, key: NamespacedName) -> None:
        parts = self.objects.parts(key)
        if parts is not None and parts.service.headless:
            self._follow_headless(key, parts)
            return
        headless = self._headless.pop(key, None)
        gone = headless.owners() if headless is not None else self._owned.pop(key, ())
        for owner in gone:
            self._take_out(owner, key)
        if parts is not None:
            self._add(key, parts)

    def _add(self, key: NamespacedName, parts: Parts) -> None:
        """Make all names of a Service."""
        forward: defaultdict[bytes, Sets] = defaultdict(dict)
        reverse: defaultdict[bytes, list[bytes]] = defaultdict(list)
        entries = service_entries(parts, self.domain)
        for owner, kind, data, _ in entries:
            if kind is Type.PTR:
                reverse[owner].append(data)
            else:
                forward[owner].setdefault(kind, []).append(encode_asked(kind, self.ttl_s, data))
        for owner in standing_names(parts, entries, self.domain):
            forward[owner].update({})
        for owner, sets in forward.items():
            self._put(owner, sets, forward)
        for owner, targets in reverse.items():
            self._point(owner, key, targets)
        if forward or reverse:
            self._owned[key] = (*forward, *reverse)

    def _follow_headless(self, key: NamespacedName, parts: Parts) -> None:
        """Make those names of a headless Service that changed: it may have a thousand."""
        own = own_name(parts.service, self.domain)
        if own is None:
            return
        for owner in self._owned.pop(key, ()):  # it was not headless before
            self._take_out(owner, key)
        headless = self._headless.setdefault(key, HeadlessNames(own, self.ttl_s))
        difference = headless.change(parts)
        for owner in difference.gone:
            del self.names[owner]
        for owner, sets in difference.names.items():
            self._put(owner, sets, difference.siblings)
        for owner, targets in difference.pointers.items():
            self._point(owner, key, targets)

    def _take_out(self, owner: bytes, key: NamespacedName) -> None:
        if owner in self._pointers:
            self._point(owner, key, [])
        else:
            del self.names[owner]

    def _put(self, owner: bytes, sets: Sets, siblings: Mapping[bytes, Sets]) -> None:
        """Make one name's answers; `siblings` are where the targets of its records have their addresses."""
        self.names[owner] = tuple(
            [
                RecordSet(_ASKED[kind], tuple(records), _additional(owner, kind, records, siblings))
                for kind, records in sets.items()
            ]
        )

    def _point(self, owner: bytes, key: NamespacedName, targets: Iterable[bytes]) -> None:
        """Let a reverse name lead to these names of one Service, besides those of others."""
        before = self._pointers.get(owner, ())
        pointers = tuple([pair for pair in before if pair[0] != key] + [(key, target) for target in targets])
        if pointers == before:
            return
        if pointers:
            self._pointers[owner] = pointers
            targets = dict.fromkeys(target for _, target in pointers)
            records = [encode_asked(Type.PTR, self.ttl_s, target) for target in targets]
            self._put(owner, {Type.PTR: records}, {})
        else:
            del self._pointers[owner]
            del self.names[owner]

    # ---- asking ----

    def services_behind(self, reverse: bytes) -> list[NamespacedName]:
        """The Services that a reverse name leads to."""
        return list(dict.fromkeys(key for key, _ in self._pointers.get(reverse, ())))

    def find(self, name: bytes, kind: int) -> Found:
        """What there is at a name in lower case."""
        sets = self.names.get(name)
        if sets is not None:
            return self._at(name, sets, kind)
        return self._computed(name, kind) if ends_with(name, self.domain) else OUTSIDE

    def _at(self, name: bytes, sets: tuple[RecordSet, ...], kind: int) -> Found:
        asked = kind.to_bytes(2) + _IN
        for found in sets:
            if found.asked == asked:
                return found
        if kind == Type.SOA and name == self.domain:
            return RecordSet(asked, (self.soa(name),))
        if not sets:
            return Absent(name_exists=True)
        if kind == Type.ANY:  # one set of several is enough (RFC 8482 4.1)
            return sets[0]
        if sets[0].asked == _ASKED[Type.CNAME]:
            return Alias(decode(sets[0].records[0], name))
        return Absent(name_exists=True)

    def records(self, found: RecordSet, name: bytes) -> list[Record]:
        """What `find` found at `name`, for a message about another name."""
        return [decode(encoded, name) for encoded in found.rotated()]

    def _computed(self, name: bytes, kind: int) -> Found:
        """Names that follow from others: namespaces, and pod records."""
        labels = _labels_before(name, self.domain)
        if labels[-1] not in (b"svc", b"pod") or not 2 <= len(labels) <= 3:
            return Absent(name_exists=False)
        known = labels[-2].decode("ascii", "replace") in self.objects.namespaces
        if labels[-1] == b"svc":
            return Absent(known and len(labels) == _NAMESPACE_DEPTH)
        if not known or self.pod_mode is PodMode.DISABLED:
            return Absent(name_exists=False)
        if len(labels) == _NAMESPACE_DEPTH:
            return Absent(name_exists=True)
        return self._pod_record(name, labels[0], labels[1].decode(), kind)

    def _pod_record(self, name: bytes, label: bytes, namespace: str, kind: int) -> Found:
        ip = pod_address(label)
        verified = self.pod_mode is PodMode.VERIFIED
        if ip is None or (verified and not self.objects.pods.has(ip, namespace)):
            return Absent(name_exists=False)
        its = address_type(ip)
        if kind not in (its, Type.ANY):
            return Absent(name_exists=True)
        return RecordSet(_ASKED[its], (encode_asked(its, self.ttl_s, ip.packed),))

    def soa(self, name: bytes) -> bytes:
        """`soa_record`, encoded for a message about `name`."""
        record = self.soa_record(name)
        offset = len(name) - len(record.owner)
        made = self._soa.get((record.owner, offset))
        if made is None:
            known = {record.owner: HEADER_BYTES + offset} if record.owner != ROOT else {}
            made = self._soa[record.owner, offset] = encode(record, known)
        return made

    def soa_record(self, name: bytes) -> Record:
        """The SOA record that stands above `name`: its TTL is for how long absence holds (RFC 2308 3)."""
        apex = next((apex for apex in self._apexes if ends_with(name, apex)), ROOT)
        mailbox = join(b"hostmaster", base=self.domain)
        return Record(apex, Type.SOA, self.ttl_s, soa_data(self._primary, mailbox, self.serial, self.ttl_s))


def _labels_before(name: bytes, base: bytes) -> list[bytes]:
    return labels_of(name[: len(name) - len(base)] + ROOT)


def _additional(
    owner: bytes, kind: Type, records: list[bytes], siblings: Mapping[bytes, Sets]
) -> tuple[bytes, ...]:
    """The addresses of the targets, where they are known here, unless there are too many to fit."""
    start = _TARGETS_AT.get(kind)
    if start is None or len(records) > MOST_WITH_ADDRESSES:
        return ()
    known = suffixes(owner)
    return tuple(
        with_owner(target, address, known)
        for target in dict.fromkeys(each[start:] for each in records)
        for its in (Type.A, Type.AAAA)
        for address in siblings.get(target, {}).get(its, ())
    )
