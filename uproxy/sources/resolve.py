"""Host names as a source: the addresses behind `--endpoint` names and FQDN slices.

Owns when each name is asked for. What a reply amounts to is `answers`' business; the wire,
/etc/hosts, `localhost` (RFC 6761) and the search domains of resolv.conf are c-ares', through
aiodns. Names that end in a dot are absolute.

Each name and family has a timer of its own, so that one that fails delays no other. IPv4 and
IPv6 are asked for apart: asked for both at once, c-ares gives what it has when one of the two
fails, and working endpoints would be dropped.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING

from uproxy.model.events import Event, Resolved
from uproxy.model.names import Family
from uproxy.sources.answers import Answer, HostAnswers, Miss

if TYPE_CHECKING:
    from aiodns import DNSResolver
    from pycares import AddrInfoResult

_FAMILIES: Mapping[Family, socket.AddressFamily] = {4: socket.AF_INET, 6: socket.AF_INET6}
_ATTEMPT_TIMEOUT_S = 2.0
_ATTEMPTS = 2


def system_dns() -> "DNSResolver":
    """The machine's own resolver, as resolv.conf has it; c-ares follows its changes."""
    import aiodns

    return aiodns.DNSResolver(timeout=_ATTEMPT_TIMEOUT_S, tries=_ATTEMPTS)


class Resolver:
    """Keeps the addresses of the host names in use up to date.

    `emit` gets a Resolved, on the event loop, whenever a name's set of addresses changes. It
    is never sent for a failure: the last good answer stands for as long as lookups fail.
    """

    def __init__(
        self, emit: Callable[[Event], None], open_dns: Callable[[], "DNSResolver"] = system_dns
    ) -> None:
        self._emit = emit
        self._open_dns = open_dns
        self._dns: DNSResolver | None = None
        self._hosts: dict[str, _Host] = {}
        self.lookups: Counter[str] = Counter()
        """Questions asked, by host name; A and AAAA are two. Only names in use are kept."""
        self.failures: Counter[str] = Counter()
        """Those that got no answer."""

    def want(self, hosts: frozenset[str]) -> None:
        """Look after exactly these names from now on."""
        for name in self._hosts.keys() - hosts:
            self._forget(name)
        for name in sorted(hosts - self._hosts.keys()):
            host = self._hosts[name] = _Host()
            for family in _FAMILIES:
                self._ask(name, host, family)

    async def close(self) -> None:
        """Stop asking. Replies under way are ignored."""
        self.want(frozenset())
        if self._dns:
            await self._dns.close()
            self._dns = None

    def _forget(self, name: str) -> None:
        for timer in self._hosts.pop(name).timers.values():
            timer.cancel()
        self.lookups.pop(name, None)
        self.failures.pop(name, None)

    def _ask(self, name: str, host: "_Host", family: Family) -> None:
        # Opened with the first name, because it costs a thread and some MiB.
        self._dns = self._dns or self._open_dns()
        self.lookups[name] += 1
        reply = self._dns.getaddrinfo(name, family=_FAMILIES[family], type=socket.SOCK_STREAM)
        reply.add_done_callback(partial(self._replied, name, host, family))

    def _replied(
        self, name: str, host: "_Host", family: Family, future: "asyncio.Future[AddrInfoResult]"
    ) -> None:
        reply = _understood(future)
        if self._hosts.get(name) is not host:
            return  # forgotten since it was asked for
        before = host.answers.addresses
        verdict = host.answers.note(family, reply)
        self.failures[name] += verdict.failed
        host.timers[family] = asyncio.get_running_loop().call_later(
            verdict.ask_again_s, self._ask, name, host, family
        )
        if host.answers.addresses != before:
            self._emit(Resolved(name, host.answers.addresses))


class _Host:
    def __init__(self) -> None:
        self.answers = HostAnswers()
        self.timers: dict[Family, asyncio.TimerHandle] = {}


def _understood(future: "asyncio.Future[AddrInfoResult]") -> Answer | Miss:
    """The reply in our words. A name lives as long as the shortest-lived record on the way to it."""
    from aiodns.error import ARES_ENODATA, ARES_ENOTFOUND, DNSError

    if future.cancelled():
        return Miss.NO_REPLY
    error = future.exception()
    if isinstance(error, DNSError):
        code = error.args[0]
        if code == ARES_ENODATA:
            return Answer((), 0)
        return Miss.NO_NAME if code == ARES_ENOTFOUND else Miss.NO_REPLY
    if error is not None:
        return Miss.NO_REPLY  # what c-ares says in ways of its own is no answer, either
    result = future.result()
    ttls = [node.ttl for node in result.nodes] + [alias.ttl for alias in result.cnames]
    return Answer(tuple(ip_address(node.addr[0].decode()) for node in result.nodes), min(ttls, default=0))
