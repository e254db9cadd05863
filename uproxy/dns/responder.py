"""A packet in, an answer out; or a note of what upstream has to be asked first.

No input or output. Owns which queries get an answer at all and which rcode. The way of nearly
all queries, an existing name asked for plainly, is `_precomputed`: it reads no more of a packet
than it has to, because a question that is found in a table of well-formed ones is well-formed.
"""

from collections.abc import Mapping
from ipaddress import ip_address
from typing import NamedTuple

from uproxy.dns.answers import (
    AMPLIFICATION,
    TCP_BYTES,
    UDP_BYTES,
    Reply,
    cut_short,
    refusal,
    render,
    udp_limit,
)
from uproxy.dns.follow import End, Walk, follow
from uproxy.dns.loops import LoopGuard
from uproxy.dns.search import search_names
from uproxy.dns.stats import DnsStats
from uproxy.dns.wire import (
    CLASS_IN,
    HEADER_BYTES,
    PLAIN_UDP_BYTES,
    Malformed,
    Query,
    Rcode,
    Record,
    Type,
    encode,
    parse_query,
    suffixes,
)
from uproxy.dns.zone import Zone

_PLAIN = b"\0\1\0\0\0\0\0\0"
_WITH_OPT = b"\0\1\0\0\0\0\0\1"
_OPT_TYPE = b"\0\0\x29"
_OPT_BYTES = 11
_OPT_ANSWER = (
    _OPT_TYPE + UDP_BYTES.to_bytes(2) + b"\0\0\0\0\0\0",
    _OPT_TYPE + UDP_BYTES.to_bytes(2) + b"\0\0\x80\0\0\0",
)
_QR = 0x80
_TRANSFERS = (Type.AXFR, Type.IXFR)
_FIRST_META_TYPE = 128
"""RFC 6895 3.1: up to 255 they ask for something else than data."""


class Deferred(NamedTuple):
    """A query that upstream has a part in."""

    query: Query
    limit: int
    """How long the answer may be, in bytes."""
    chain: tuple[Record, ...]
    """The ExternalNames passed on the way out."""
    name: bytes
    """What to ask upstream for, when `search` is empty."""
    search: tuple[bytes, ...] = ()
    """Names to try in order, for a client that is walking its search path."""


class Responder:
    """Answers from a zone."""

    def __init__(self, zone: Zone, stats: DnsStats) -> None:
        self.zone = zone
        self.ready = False
        """Whether the zone is complete; until then everything is SERVFAIL."""
        self.recursion = False
        """Whether there is an upstream."""
        self._guard: LoopGuard | None = None
        self._search_tail: tuple[bytes, ...] = ()
        self._stats = stats

    def lead_upstream(self, guard: LoopGuard, search: tuple[bytes, ...]) -> None:
        """There is an upstream: names elsewhere are deferred from now on.

        `search` are the node's own search domains, which its pods have after the cluster's.
        """
        self.recursion = True
        self._guard = guard
        self._search_tail = search

    def respond(self, packet: bytes, client: str, *, udp: bool) -> bytes | Deferred | None:
        """The answer; None when there is to be none."""
        answer = self._precomputed(packet, udp=udp)
        if answer is not None:
            return answer
        if len(packet) < HEADER_BYTES or packet[2] & _QR:
            return None  # an answer to an answer would go on for ever
        try:
            query = parse_query(packet)
        except Malformed:
            return refusal(packet, Rcode.NOTIMP if packet[2] >> 3 & 0xF else Rcode.FORMERR)
        limit = udp_limit(len(packet), query.edns) if udp else TCP_BYTES
        objection = self._objection(query)
        if objection is not None:
            return self._render(query, Reply(objection, authoritative=False), limit)
        return self._look_up(query, client, limit)

    def refuse(self, packet: bytes) -> bytes | None:
        """REFUSED, for a client that is not served."""
        if len(packet) < HEADER_BYTES or packet[2] & _QR:
            return None
        return refusal(packet, Rcode.REFUSED)

    def slip(self, packet: bytes) -> bytes | None:
        """An empty answer with TC, for a client that has had too many by UDP."""
        if len(packet) < HEADER_BYTES or packet[2] & _QR:
            return None
        try:
            query = parse_query(packet)
        except Malformed:
            return None
        return cut_short(packet, query.end)

    def _precomputed(self, packet: bytes, *, udp: bool) -> bytes | None:
        """The answer to a plain question about a name that exists."""
        if len(packet) < HEADER_BYTES or packet[2] > 1 or not self.ready:
            return None
        end = packet.find(0, HEADER_BYTES) + 5
        sets = self.zone.names.get(packet[HEADER_BYTES : end - 4].lower(), ())
        asked = packet[end - 4 : end]
        for found in sets:
            if found.asked == asked:
                break
        else:
            return None
        size, opt, counts = PLAIN_UDP_BYTES, b"", packet[4:12]
        if counts == _WITH_OPT:
            if len(packet) < end + _OPT_BYTES or packet[end : end + 3] != _OPT_TYPE or packet[end + 6]:
                return None
            if len(packet) != end + _OPT_BYTES + int.from_bytes(packet[end + 9 : end + 11]):
                return None
            size = int.from_bytes(packet[end + 3 : end + 5])
            opt = _OPT_ANSWER[packet[end + 7] >> 7]
        elif counts != _PLAIN or len(packet) != end:
            return None
        records = found.records
        body = records[0] if len(records) == 1 else b"".join(found.rotated())
        extra = b"".join(found.additional)
        limit = min(size, UDP_BYTES, AMPLIFICATION * len(packet)) if udp else TCP_BYTES
        if end + len(body) + len(extra) + len(opt) > limit:
            return None
        return b"".join(
            (
                packet[:2],
                bytes((0x84 | packet[2], (self.recursion << 7) | packet[3] & 0x10)),
                b"\0\1",
                len(records).to_bytes(2),
                b"\0\0",
                (len(found.additional) + (opt != b"")).to_bytes(2),
                packet[HEADER_BYTES:end],
                body,
                extra,
                opt,
            )
        )

    def _objection(self, query: Query) -> Rcode | None:
        """Why a well-formed query gets no answer."""
        if query.opcode:
            return Rcode.NOTIMP
        if query.edns is not None and query.edns.version:
            return Rcode.BADVERS
        if query.qclass != CLASS_IN or query.type in _TRANSFERS:
            return Rcode.REFUSED
        if query.type == Type.OPT or (_FIRST_META_TYPE <= query.type < Type.ANY):
            return Rcode.NOTIMP
        return None if self.ready else Rcode.SERVFAIL

    def _look_up(self, query: Query, client: str, limit: int) -> bytes | Deferred:
        walk = follow(self.zone, query.key, query.type)
        if walk.end is End.OUTSIDE:
            return self._outside(query, walk, limit)
        if walk.end is End.NXDOMAIN and not walk.chain and self._goes_upstream(query):
            search = self._search(query, client)
            if search:
                return Deferred(query, limit, (), query.key, search)
        if walk.end is End.LOOP:
            self._stats.loops += 1
        return self._render(query, self.reply(query, walk), limit)

    def _outside(self, query: Query, walk: Walk, limit: int) -> bytes | Deferred:
        if self._guard is not None and self._guard.sees(query.key):
            self._stats.loops += 1
        if self._goes_upstream(query):
            return Deferred(query, limit, walk.chain, walk.name)
        if walk.chain:
            return self._render(query, self.reply(query, walk), limit)
        return self._render(query, Reply(Rcode.REFUSED, authoritative=False), limit)

    def _goes_upstream(self, query: Query) -> bool:
        return self._guard is not None and not self._guard.found and query.recursion_desired

    def _search(self, query: Query, client: str) -> tuple[bytes, ...]:
        namespace = self.zone.objects.pods.namespace_of(ip_address(client))
        if namespace is None:
            return ()
        return search_names(query.key, namespace, self.zone.domain, self._search_tail)

    def reply(self, query: Query, walk: Walk) -> Reply:
        """What a walk that ended inside the cluster domain amounts to."""
        if walk.end is End.LOOP:
            return Reply(Rcode.SERVFAIL, authoritative=False)
        if walk.found is not None and not walk.chain:
            return Reply(Rcode.NOERROR, walk.found.rotated(), (), walk.found.additional)
        if not walk.chain:
            rcode = Rcode.NXDOMAIN if walk.end is End.NXDOMAIN else Rcode.NOERROR
            return Reply(rcode, (), (self.zone.soa(query.key),))
        return self._after_chain(suffixes(query.key), walk)

    def _after_chain(self, known: Mapping[bytes, int], walk: Walk) -> Reply:
        """A reply about another name than the one asked for. The rcode is the last name's (RFC 6604)."""
        answers = [encode(record, known) for record in walk.chain]
        if walk.found is not None:
            last = self.zone.records(walk.found, walk.name)
            return Reply(Rcode.NOERROR, answers + [encode(record, known) for record in last])
        if walk.end is End.OUTSIDE:
            return Reply(Rcode.NOERROR, answers)
        rcode = Rcode.NXDOMAIN if walk.end is End.NXDOMAIN else Rcode.NOERROR
        return Reply(rcode, answers, (encode(self.zone.soa_record(walk.name), known),))

    def _render(self, query: Query, reply: Reply, limit: int) -> bytes:
        return render(query, reply, limit, recursion=self.recursion)
