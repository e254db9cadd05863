"""What every listener does with a packet: judge the client, answer, count; what needs upstream, later.

Owns the way between the listeners and the parts that answer. Refuses to know of sockets.
"""

import asyncio
from collections.abc import Callable
from enum import Enum, auto

from uproxy.dns.answers import refusal
from uproxy.dns.limits import Gate, Verdict
from uproxy.dns.recursion import Recursion
from uproxy.dns.responder import Deferred, Responder
from uproxy.dns.stats import DnsStats
from uproxy.dns.wire import HEADER_BYTES, Rcode
from uproxy.kit.tasks import Tasks

MOST_DEFERRED = 2000
"""Queries that wait for upstream; one more is SERVFAIL at once."""

Send = Callable[[bytes], None]


class Fate(Enum):
    """What becomes of a query that has no answer at once."""

    LATER = auto()
    """Upstream is asked; `send` is called once."""
    NEVER = auto()


class Front:
    """Answers packets: those that `take_...` returns at once, others by `send`."""

    def __init__(
        self,
        responder: Responder,
        recursion: Recursion | None,
        gate: Gate,
        stats: DnsStats,
        *,
        tasks: Tasks,
        now: Callable[[], float],
    ) -> None:
        self.gate = gate
        self.now = now
        self._responder = responder
        self._recursion = recursion
        self._stats = stats
        self._tasks = tasks
        self._deferred = 0
        self._done = asyncio.Event()
        """Set once no query waits, while this ends."""
        self._ends = False

    @property
    def waiting(self) -> int:
        """How many queries wait for upstream."""
        return self._deferred

    async def drain(self) -> None:
        """Ask upstream for nothing new, and wait until all that was asked for is answered. What the zone
        knows is answered as before."""
        self._ends = True
        if self._deferred:
            await self._done.wait()

    def take_datagram(
        self, packet: bytes, client: str, family: int, send: Callable[[], Send]
    ) -> bytes | Fate:
        """One query by UDP. Raises nothing, whatever the packet."""
        try:
            return self._take_datagram(packet, client, family, send)
        except Exception as error:  # noqa: BLE001 - about this packet, whatever it is
            self._stats.failed(error)
            return Fate.NEVER

    def _take_datagram(
        self, packet: bytes, client: str, family: int, send: Callable[[], Send]
    ) -> bytes | Fate:
        started_s = self.now()
        verdict = self.gate.admit(client, started_s)
        if verdict is not Verdict.ANSWER:
            return self._turned_away(packet, verdict)
        answer = self._responder.respond(packet, client, udp=True)
        if isinstance(answer, bytes):
            self._count("udp", family, packet, answer, started_s)
            return answer
        if answer is None:
            self._stats.dropped["no query"] += 1
            return Fate.NEVER
        return self._defer(answer, ("udp", family), started_s, send())

    def take_message(self, packet: bytes, client: str, family: int, send: Send) -> bytes | Fate:
        """One query by TCP."""
        started_s = self.now()
        answer = self._responder.respond(packet, client, udp=False)
        if isinstance(answer, bytes):
            self._count("tcp", family, packet, answer, started_s)
            return answer
        if answer is None:
            self._stats.dropped["no query"] += 1
            return Fate.NEVER
        return self._defer(answer, ("tcp", family), started_s, send)

    def _defer(self, asked: Deferred, way: tuple[str, int], started_s: float, send: Send) -> bytes | Fate:
        if self._recursion is None or self._ends or self._deferred >= MOST_DEFERRED:
            self._stats.upstream_refused += 1
            answer = refusal(asked.query.packet, Rcode.SERVFAIL)
            self._count(*way, asked.query.packet, answer, started_s)
            return answer
        self._deferred += 1
        self._tasks.start("dns-query", self._complete(asked, way, started_s, self._recursion, send))
        return Fate.LATER

    async def _complete(
        self, asked: Deferred, way: tuple[str, int], started_s: float, recursion: Recursion, send: Send
    ) -> None:
        try:
            answer = await recursion.complete(asked)
        except Exception as error:  # noqa: BLE001 - about this question, whatever it is
            self._stats.failed(error)
            answer = refusal(asked.query.packet, Rcode.SERVFAIL)
        finally:
            self._deferred -= 1
        self._count(*way, asked.query.packet, answer, started_s)
        try:
            send(answer)
        except Exception as error:  # noqa: BLE001 - about this client
            self._stats.failed(error)
        if self._ends and not self._deferred:
            self._done.set()

    def _turned_away(self, packet: bytes, verdict: Verdict) -> bytes | Fate:
        if verdict is Verdict.REFUSE:
            self._stats.dropped["network not served"] += 1
            return self._responder.refuse(packet) or Fate.NEVER
        self._stats.dropped["rate"] += 1
        answer = self._responder.slip(packet) if verdict is Verdict.SLIP else None
        return answer or Fate.NEVER

    def _count(self, transport: str, family: int, packet: bytes, answer: bytes, started_s: float) -> None:
        """Count one answer. The type is where a question has it that ends with the packet, or before OPT."""
        end = packet.find(0, HEADER_BYTES) + 1
        self._stats.requests[transport, family][int.from_bytes(packet[end : end + 2])] += 1
        self._stats.responses[answer[3] & 0xF] += 1
        self._stats.duration.record(self.now() - started_s)
