"""The whole of cluster DNS, as the composition root starts it.

Owns the order in which its parts start and end. It is a target of the reconcile loop, and the
last one: a name exists once everything that it leads to is programmed. Sources' events come by
`observe`, which is to be told everything that the loop is told.
"""

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from math import inf

from uproxy.dns.front import Front
from uproxy.dns.limits import Gate
from uproxy.dns.loops import LoopGuard
from uproxy.dns.pods import PodMode
from uproxy.dns.recursion import Recursion
from uproxy.dns.resolv_conf import read_resolv_conf, without_own
from uproxy.dns.responder import Responder
from uproxy.dns.stats import DnsStats
from uproxy.dns.tcp import LIMITS, TcpConnections
from uproxy.dns.udp import UdpListener, bind_udp, is_wildcard
from uproxy.dns.upstream import Upstream
from uproxy.dns.wire import Malformed, from_text
from uproxy.dns.zone import TTL_S, Zone
from uproxy.errors import UproxyError
from uproxy.kit.guests import Budget, Door, Guests
from uproxy.kit.tasks import Tasks
from uproxy.model.events import Event
from uproxy.model.frontend import Changes
from uproxy.model.names import IPNetwork, Vip, address_text
from uproxy.settings import CLUSTER_DOMAIN, Address

_BACKLOG = 256

log = logging.getLogger("uproxy.dns")


@dataclass(frozen=True, slots=True)
class DnsSettings:
    """How names are served."""

    listen: tuple[Address, ...]
    """Where, by UDP and TCP."""
    domain: str = CLUSTER_DOMAIN
    upstream: tuple[Address, ...] = ()
    """Servers for all other names, the first that works; empty takes those of resolv.conf."""
    pods: PodMode = PodMode.INSECURE
    networks: tuple[IPNetwork, ...] = ()
    """Clients that are answered besides those of private networks: Service and pod networks."""
    ttl_s: int = TTL_S


class ClusterDns:
    """Answers names from start to close; a Target of the reconcile loop.

    Raises UproxyError, with words for a person, when made with a domain that is no name.
    """

    def __init__(self, settings: DnsSettings, now: Callable[[], float], budget: Budget | None = None) -> None:
        self.stats = DnsStats()
        self.guests = Guests("dns", LIMITS, budget)
        """Who is connected by TCP."""
        self.settings = settings
        self.zone = _zone(settings)
        self.addresses: list[Address] = []
        """Where it listens, once it has started."""
        self._now = now
        self._events: list[Event] = []
        self._udp: list[UdpListener] = []
        self._doors: list[Door] = []
        self._front: Front | None = None
        self._guard = LoopGuard(secrets.token_hex(8).encode())
        self._upstream: Upstream | None = None
        self.responder = Responder(self.zone, self.stats)

    # ---- starting and ending ----

    async def start(self, tasks: Tasks) -> None:
        """Listen. Until the zone is complete every answer is SERVFAIL. Queries that wait for upstream
        are among `tasks`, so that a bug there ends the process as one elsewhere does.

        Raises UproxyError when an address cannot be had.
        """
        loop = asyncio.get_running_loop()
        sockets = _bind_all(self.settings.listen)
        self.addresses = [bound.getsockname()[:2] for bound, _ in sockets]
        front = self._front = self._new_front(tasks)
        connections = TcpConnections(front, self.stats, self.guests)
        for datagrams, streams in sockets:
            self._udp.append(UdpListener(loop, datagrams, front, self.stats))
            self._doors.append(Door(streams, self.guests, connections.greet, _BACKLOG))
        listening = ", ".join(address_text(*address) for address in self.addresses)
        log.info("DNS for %s at %s", self.settings.domain, listening)

    def _new_front(self, tasks: Tasks) -> Front:
        conf = read_resolv_conf()
        servers = without_own(self.settings.upstream or conf.servers, self.addresses)
        if self.settings.upstream and len(servers) < len(self.settings.upstream):
            log.warning("--dns-upstream names this DNS server itself: left out")
        recursion = None
        if servers:
            self._upstream = Upstream(servers, self._guard, self.stats, tasks=tasks, now=self._now)
            self.responder.lead_upstream(self._guard, conf.search)
            recursion = Recursion(self.responder, self._upstream, self.stats)
        gate = Gate(self.settings.networks)
        return Front(self.responder, recursion, gate, self.stats, tasks=tasks, now=self._now)

    @property
    def waiting(self) -> int:
        """How many queries wait for upstream."""
        return self._front.waiting if self._front is not None else 0

    async def drain(self, timeout_s: float) -> None:
        """Let queries that wait for upstream have their answers, or for so long; ask it for nothing new.
        Names inside are answered until `close`."""
        if self._front is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s if timeout_s < inf else None):
                    await self._front.drain()

    async def close(self) -> None:
        """Stop answering, and let go of every socket."""
        for listener in self._udp:
            listener.close()
        for door in self._doors:
            door.close()
        self.guests.close()
        if self._upstream is not None:
            self._upstream.close()
        self._udp, self._doors = [], []

    # ---- following the state ----

    def observe(self, event: Event) -> None:
        """Follow what a source says; it counts with the next `make`."""
        self._events.append(event)

    async def make(self, changes: Changes) -> Mapping[Vip, str]:
        """Make the names of what changed; with the first call the zone is complete."""
        started_s = self._now()
        events, self._events = self._events, []
        if self.zone.apply(events, changes):
            self.stats.changes.record(self._now() - started_s)
        self.responder.ready = True
        return {}

    async def retire(self, _changes: Changes) -> None:
        """Done by `make`: a name that is gone must not be found for longer than its addresses."""

    async def prune(self) -> None:
        """Names do not outlive a process."""


def _zone(settings: DnsSettings) -> Zone:
    try:
        domain = from_text(settings.domain)
        servers = [ip_address(ip) for ip, _ in settings.listen if not is_wildcard(ip)]
        return Zone(domain, settings.pods, dict.fromkeys(servers), settings.ttl_s)
    except Malformed as error:
        raise UproxyError(f"{settings.domain!r} cannot be a cluster domain: {error}") from error


def _bind_all(addresses: Iterable[Address]) -> list[tuple[socket.socket, socket.socket]]:
    """For each address a socket for UDP and one for TCP, on one port.

    Raises UproxyError, and leaves none behind.
    """
    bound: list[tuple[socket.socket, socket.socket]] = []
    with ExitStack() as undo:
        for ip, port in addresses:
            try:
                streams = undo.enter_context(_bind_tcp(ip, port))
                datagrams = undo.enter_context(bind_udp(ip, streams.getsockname()[1]))
            except OSError as error:
                where = address_text(ip, port)
                raise UproxyError(f"cannot serve DNS at {where}: {error.strerror}") from error
            bound.append((datagrams, streams))
        undo.pop_all()
    return bound


def _bind_tcp(ip: str, port: int) -> socket.socket:
    streams = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM)
    try:
        streams.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if streams.family == socket.AF_INET6:
            streams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        streams.bind((ip, port))
    except OSError:
        streams.close()
        raise
    return streams
