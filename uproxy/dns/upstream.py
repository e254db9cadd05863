"""Names outside the cluster domain: asked of upstream servers, by c-ares through aiodns.

The only module that imports aiodns. Owns how many questions are under way, and that the same one
is asked once. Which server is asked, timeouts, TCP after truncation, and going on to the next
server are c-ares'; for what c-ares cannot ask, `verbatim`'s.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from uproxy.dns.cache import Cache, Outcome
from uproxy.dns.foreign import QUERY_TYPES, records_of
from uproxy.dns.loops import LoopGuard
from uproxy.dns.stats import DnsStats
from uproxy.dns.verbatim import ask_verbatim
from uproxy.dns.wire import Rcode, Type, to_text
from uproxy.kit.tasks import Tasks
from uproxy.model.names import address_text
from uproxy.settings import Address

if TYPE_CHECKING:
    from aiodns import DNSResolver
    from pycares import DNSResult

MOST_UNDER_WAY = 1000
_ATTEMPT_TIMEOUT_S = 2.0
_ATTEMPTS = 2
_ASKED_MOST = 100_000
"""c-ares keeps answers for as long as their TTLs say, however many: after this many questions it
is started afresh, and the answers are gone."""

_Key = tuple[bytes, int, bool]


class Upstream:
    """Asks `servers`, the first that works."""

    def __init__(
        self,
        servers: Sequence[Address],
        guard: LoopGuard,
        stats: DnsStats,
        *,
        tasks: Tasks,
        now: Callable[[], float],
    ) -> None:
        self.cache = Cache()
        self._guard = guard
        self._servers = servers
        self._stats = stats
        self._tasks = tasks
        self._now = now
        self._dns: DNSResolver | None = None
        self._asked = 0
        self._under_way: dict[_Key, asyncio.Future[Outcome]] = {}

    async def ask(self, name: bytes, kind: int, *, dnssec: bool = False) -> Outcome:
        """What upstream knows of a name in lower case, with signatures or without. A failure is
        SERVFAIL, and no exception."""
        kept = self.cache.get(name, kind, self._now(), dnssec=dnssec)
        if kept is not None:
            self._stats.cache_hits["success" if kept.records else "denial"] += 1
            return kept
        self._stats.cache_misses += 1
        reply = self._under_way.get((name, kind, dnssec))
        if reply is None:
            if len(self._under_way) >= MOST_UNDER_WAY:
                self._stats.upstream_refused += 1
                return Outcome(Rcode.SERVFAIL)
            reply = self._send((name, kind, dnssec))
        return await asyncio.shield(reply)

    async def close(self) -> None:
        """Stop asking: what is under way ends as SERVFAIL."""
        for reply in list(self._under_way.values()):
            if not reply.done():
                reply.set_result(Outcome(Rcode.SERVFAIL))
        self._under_way.clear()
        if self._dns is not None:
            await self._dns.close()
            self._dns = None

    def _send(self, key: _Key) -> "asyncio.Future[Outcome]":
        if self._dns is None:
            self._dns = self._open()
            self._send((self._guard.name, Type.A, False))
        reply: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._under_way[key] = reply
        self._stats.upstream_requests += 1
        name, kind, dnssec = key
        if dnssec or kind not in QUERY_TYPES:
            self._tasks.start("dns-verbatim", self._ask_verbatim(key, reply))
            return reply
        self._asked += 1
        if self._asked % _ASKED_MOST == 0:
            self._dns = self._open()
        asked = self._dns.query_dns(to_text(name), QUERY_TYPES[kind])
        asked.add_done_callback(lambda done: self._replied(key, reply, _understood(done)))
        return reply

    async def _ask_verbatim(self, key: _Key, reply: "asyncio.Future[Outcome]") -> None:
        name, kind, dnssec = key
        self._replied(key, reply, await ask_verbatim(self._servers, name, kind, dnssec=dnssec))

    def _open(self) -> "DNSResolver":
        import aiodns  # with the first question: it costs a thread and some MiB

        servers = [address_text(*server) for server in self._servers]
        return aiodns.DNSResolver(servers, timeout=_ATTEMPT_TIMEOUT_S, tries=_ATTEMPTS)

    def _replied(self, key: _Key, reply: "asyncio.Future[Outcome]", outcome: Outcome) -> None:
        name, kind, dnssec = key
        if self._under_way.get(key) is reply:
            del self._under_way[key]
        if outcome.rcode is Rcode.SERVFAIL:
            self._stats.upstream_failures += 1
        self.cache.put(name, kind, outcome, self._now(), dnssec=dnssec)
        if not reply.done():
            reply.set_result(outcome)


def _understood(asked: "asyncio.Future[DNSResult]") -> Outcome:
    from aiodns.error import ARES_ENODATA, ARES_ENOTFOUND, DNSError

    if asked.cancelled():
        return Outcome(Rcode.SERVFAIL)
    error = asked.exception()
    if error is None:
        return Outcome(Rcode.NOERROR, records_of(asked.result()))
    code = error.args[0] if isinstance(error, DNSError) else None
    if code == ARES_ENODATA:
        return Outcome(Rcode.NOERROR)
    return Outcome(Rcode.NXDOMAIN if code == ARES_ENOTFOUND else Rcode.SERVFAIL)
