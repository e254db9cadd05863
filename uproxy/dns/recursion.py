"""Queries that upstream has a part in: names elsewhere, ExternalNames, and search paths.

Owns how what upstream says and what the zone says become one answer.
"""

from uproxy.dns.answers import Reply, render
from uproxy.dns.cache import Outcome
from uproxy.dns.follow import End, follow
from uproxy.dns.responder import Deferred, Responder
from uproxy.dns.stats import DnsStats
from uproxy.dns.upstream import Upstream
from uproxy.dns.wire import Rcode, Record, Type, encode, suffixes

_RCODES = {End.NODATA: Rcode.NOERROR, End.NXDOMAIN: Rcode.NXDOMAIN, End.LOOP: Rcode.SERVFAIL}


class Recursion:
    """Completes what the responder could not answer alone."""

    def __init__(self, responder: Responder, upstream: Upstream, stats: DnsStats) -> None:
        self._responder = responder
        self._upstream = upstream
        self._stats = stats

    async def complete(self, asked: Deferred) -> bytes:
        """The answer. Raises nothing: a failure is SERVFAIL."""
        reply = await (self._searched(asked) if asked.search else self._forwarded(asked))
        return render(asked.query, reply, asked.limit, recursion=True)

    async def _forwarded(self, asked: Deferred) -> Reply:
        edns = asked.query.edns
        dnssec = edns is not None and edns.do
        outcome = await self._upstream.ask(asked.name, asked.query.type, dnssec=dnssec)
        return _reply(asked, (*asked.chain, *outcome.records), outcome)

    async def _searched(self, asked: Deferred) -> Reply:
        """The first of the search path's names that exists, as an alias; else that the first does not."""
        for name in asked.search:
            outcome = await self._resolved(name, asked.query.type)
            if outcome.rcode is Rcode.NOERROR:
                self._stats.autopath_hits += 1
                ttl_s = min((record.ttl_s for record in outcome.records), default=0)
                alias = Record(asked.query.key, Type.CNAME, ttl_s, name)
                return _reply(asked, (alias, *outcome.records), outcome)
            if outcome.rcode is not Rcode.NXDOMAIN:
                break
        soa = self._responder.zone.soa(asked.query.key)
        return Reply(Rcode.NXDOMAIN, (), (soa,))

    async def _resolved(self, name: bytes, kind: int) -> Outcome:
        zone = self._responder.zone
        walk = follow(zone, name, kind)
        if walk.end is End.OUTSIDE:
            outcome = await self._upstream.ask(walk.name, kind)
            return outcome._replace(records=(*walk.chain, *outcome.records))
        if walk.found is not None:
            return Outcome(Rcode.NOERROR, (*walk.chain, *zone.records(walk.found, walk.name)))
        return Outcome(_RCODES[walk.end], walk.chain)


def _reply(asked: Deferred, records: tuple[Record, ...], outcome: Outcome) -> Reply:
    known = suffixes(asked.query.key)
    answers, authority = (
        [encode(record, known) for record in section] for section in (records, outcome.authority)
    )
    return Reply(outcome.rcode, answers, authority, authoritative=bool(asked.chain))
