"""Local routes (AnyIP): with one, the node takes packets for a VIP as its own, without NAT.

Owns the routes in table `local` that carry protocol number 117, which marks them as ours.
Refuses to touch any other, and to decide which VIPs need one: its caller does. Source:
ip-route(8), `TYPE local`; /etc/iproute2/rt_protos for the numbers that others use.
"""

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from ipaddress import ip_address

from uproxy.errors import CommandFailed
from uproxy.kit.commands import run
from uproxy.kit.programs import peek
from uproxy.model.frontend import Changes, DesiredServicePort, Frontend
from uproxy.model.names import IPAddress, ServicePortName, Vip

ROUTE_PROTOCOL = 117

# EEXIST, ESRCH and (of rules) ENOENT as `ip` prints them, in English everywhere. An address that is
# there already is the node's own or an earlier run's, and serves just as well.
_ALREADY_SO = (
    "RTNETLINK answers: File exists",
    "RTNETLINK answers: No such process",
    "RTNETLINK answers: No such file or directory",
)
_FAILED_LINE = re.compile(r"Command failed -:(\d+)")

_log = logging.getLogger(__name__)


class LocalRoutes:
    """A target: a local route for every address that `wants` asks for.

    Several Service ports may share an address; its route goes with the last of them.
    """

    what = "local route"

    def __init__(self, wants: Callable[[DesiredServicePort, Frontend], bool]) -> None:
        self._wants = wants
        self._held: dict[ServicePortName, frozenset[IPAddress]] = {}
        self._holders: Counter[IPAddress] = Counter()
        self._routed: set[IPAddress] = set()
        self._released: set[IPAddress] = set()
        """Those that no Service port holds any more, and whose route may still be there."""

    async def make(self, changes: Changes) -> Mapping[Vip, str]:
        """Add the routes that are missing; one run of `ip`, or none."""
        wanted: set[IPAddress] = set()
        for port in changes.updated:
            addresses = self._addresses(port)
            wanted |= addresses
            # What it held before stays held until `retire`: traffic may still come for it.
            self._hold(port.name, addresses | self._held.get(port.name, frozenset()))
        missing = sorted(wanted - self._routed, key=_order)
        failed = await self._add(missing)
        self._routed.update(ip for ip in missing if ip not in failed)
        vips = (frontend.vip for port in changes.updated for frontend in port.frontends)
        return {vip: f"no {self.what}: {failed[vip.ip]}" for vip in vips if vip.ip in failed}

    async def retire(self, changes: Changes) -> None:
        """Remove the routes whose last Service port is gone; one run of `ip`, or none."""
        for name in changes.removed:
            self._hold(name, frozenset())
        for port in changes.updated:
            self._hold(port.name, self._addresses(port))
        # What failed before is tried again.
        self._released &= self._routed
        await self._remove(list(self._released))

    async def prune(self) -> None:
        """Remove routes that an earlier run left and no Service port has a use for."""
        await self._remove([ip for ip in await self._marked() if ip not in self._holders])

    async def close(self) -> None:
        """Remove every route of ours."""
        await self._remove(self._routed.union(await self._marked()))

    async def _remove(self, ips: Collection[IPAddress]) -> None:
        failed = await self._delete(ips)
        gone = [ip for ip in ips if ip not in failed]
        self._routed.difference_update(gone)
        self._released.difference_update(gone)
        for ip, reason in failed.items():
            _log.warning("%s %s stays: %s", self.what, ip, reason)

    # ---- what a kernel without local routes does otherwise (lo_addresses.py) ----

    async def _add(self, ips: Sequence[IPAddress]) -> Mapping[IPAddress, str]:
        return await _change("add", ips)

    async def _delete(self, ips: Collection[IPAddress]) -> Mapping[IPAddress, str]:
        return await remove_routes(ips)

    async def _marked(self) -> list[IPAddress]:
        return await marked_routes()

    # ---- who holds what ----

    def _hold(self, name: ServicePortName, ips: frozenset[IPAddress]) -> None:
        if ips == self._held.get(name):
            return  # its endpoints have changed, as nearly always
        self._holders.update(ips)
        self._released -= ips
        for ip in self._held.pop(name, ()):
            self._holders[ip] -= 1
            if not self._holders[ip]:
                del self._holders[ip]
                self._released.add(ip)
        if ips:
            self._held[name] = ips

    def _addresses(self, port: DesiredServicePort) -> frozenset[IPAddress]:
        ips = (frontend.vip.ip for frontend in port.frontends if self._wants(port, frontend))
        # Loopback addresses are local already; a NodePort is no address.
        return frozenset(ip for ip in ips if not ip.is_loopback and not ip.is_unspecified)


async def marked_routes() -> list[IPAddress]:
    """The addresses whose local routes are ours, by their mark."""
    ours = ("table", "local", "protocol", str(ROUTE_PROTOCOL))
    found: list[IPAddress] = []
    for family in ("-4", "-6"):
        text = await peek("ip", "-json", family, "route", "show", *ours)
        found += [ip_address(route["dst"]) for route in json.loads(text or "[]")]
    return found


async def remove_routes(ips: Iterable[IPAddress]) -> Mapping[IPAddress, str]:
    """Remove our local routes of `ips`; returns those that stayed, with the reason."""
    return await _change("del", sorted(ips, key=_order))


async def _change(verb: str, ips: Sequence[IPAddress]) -> Mapping[IPAddress, str]:
    """Run one batch of `ip route`; returns the addresses that it failed for."""
    if not ips:
        return {}
    try:
        # -force: go on after a line that fails, so that the others are unharmed.
        done = await run("ip", "-force", "-batch", "-", stdin=render_batch(verb, ips))
    except CommandFailed as error:
        return dict.fromkeys(ips, str(error))
    return {ips[line - 1]: reason for line, reason in parse_failures(done.stderr).items()}


def render_batch(verb: str, ips: Sequence[IPAddress]) -> str:
    """Input for `ip -batch -`: one line an address."""
    tail = f"dev lo protocol {ROUTE_PROTOCOL} table local"
    return "".join(f"route {verb} local {ip}/{ip.max_prefixlen} {tail}\n" for ip in ips)


def parse_failures(stderr: str) -> Mapping[int, str]:
    """Lines of the batch that failed, counted from 1, with the reasons that `ip` gave."""
    failures: dict[int, str] = {}
    reason = "no reason given"
    for line in stderr.splitlines():
        match = _FAILED_LINE.match(line)
        if not match:
            reason = line
        elif reason not in _ALREADY_SO:
            failures[int(match[1])] = reason
    return failures


def _order(ip: IPAddress) -> tuple[int, IPAddress]:
    return ip.version, ip
