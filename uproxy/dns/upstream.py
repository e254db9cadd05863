"""Names outside the cluster domain: asked of upstream servers.

Owns how many questions are under way, that the same one is asked once, and what is kept of the answers.
Which server is asked, and when to go on to the next, is `servers`' business.
"""

import asyncio
from collections.abc import Callable, Sequence

from uproxy.dns.cache import Cache, Outcome
from uproxy.dns.loops import LoopGuard
from uproxy.dns.servers import Servers
from uproxy.dns.stats import DnsStats
from uproxy.dns.wire import Rcode, Type
from uproxy.kit.tasks import Tasks
from uproxy.settings import Address

MOST_UNDER_WAY = 1000

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
        self._servers = Servers(servers, now)
        self._stats = stats
        self._tasks = tasks
        self._now = now
        self._probed = False
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

    def close(self) -> None:
        """Stop asking: what is under way ends as SERVFAIL."""
        for reply in list(self._under_way.values()):
            if not reply.done():
                reply.set_result(Outcome(Rcode.SERVFAIL))
        self._under_way.clear()

    def _send(self, key: _Key) -> asyncio.Future[Outcome]:
        if not self._probed:
            self._probed = True
            self._send((self._guard.name, Type.A, False))
        reply: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._under_way[key] = reply
        self._stats.upstream_requests += 1
        self._tasks.start("dns-upstream", self._ask(key, reply))
        return reply

    async def _ask(self, key: _Key, reply: asyncio.Future[Outcome]) -> None:
        name, kind, dnssec = key
        try:
            outcome = await self._servers.ask(name, kind, dnssec=dnssec)
        except Exception as error:  # noqa: BLE001 - about this question, whatever it is
            self._stats.failed(error)
            outcome = Outcome(Rcode.SERVFAIL)
        if self._under_way.get(key) is reply:
            del self._under_way[key]
        if outcome.rcode is Rcode.SERVFAIL:
            self._stats.upstream_failures += 1
        self.cache.put(name, kind, outcome, self._now(), dnssec=dnssec)
        if not reply.done():
            reply.set_result(outcome)
