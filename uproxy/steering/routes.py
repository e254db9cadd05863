"""Local routes (AnyIP): with one, the node takes packets for a VIP as its own, without NAT.

Owns the routes in table `local` that carry protocol number 117, which marks them as ours.
Refuses to touch any other, and to decide which VIPs need which: its caller does. Source:
ip-route(8), `TYPE local`; /etc/iproute2/rt_protos for the numbers that others use.
"""

import asyncio
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from ipaddress import ip_network

from uproxy.errors import CommandFailed
from uproxy.kit.commands import run
from uproxy.kit.programs import complaint, peek
from uproxy.model.frontend import Changes, DesiredServicePort, Frontend
from uproxy.model.names import IPNetwork, ServicePortName, Vip

ROUTE_PROTOCOL = 117
CHECK_S = 30.0
"""How often the kernel is asked whether it has them still."""

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
    """A target: local routes of all networks that traffic for a frontend `needs`, most often its address.

    Several Service ports may need one; it goes with the last of them.
    """

    what = "local route of"

    def __init__(self, needs: Callable[[DesiredServicePort, Frontend], Iterable[IPNetwork]]) -> None:
        self._needs = needs
        self._held: dict[ServicePortName, frozenset[IPNetwork]] = {}
        self._holders: Counter[IPNetwork] = Counter()
        self._routed: set[IPNetwork] = set()
        self._released: set[IPNetwork] = set()
        """Those that no Service port holds any more, and whose route may still be there."""
        self._lock = asyncio.Lock()

    async def make(self, changes: Changes) -> Mapping[Vip, str]:
        """Add the routes that are missing; one run of `ip`, or none."""
        async with self._lock:
            return await self._make(changes)

    async def _make(self, changes: Changes) -> Mapping[Vip, str]:
        wanted: set[IPNetwork] = set()
        for port in changes.updated:
            needed = self._needed(port)
            wanted |= needed
            # What it held before stays held until `retire`: traffic may still come for it.
            self._hold(port.name, needed | self._held.get(port.name, frozenset()))
        missing = sorted(wanted - self._routed, key=_order)
        failed = await self._add(missing)
        self._routed.update(network for network in missing if network not in failed)
        if not failed:
            return {}
        return {
            frontend.vip: f"no {self.what} {written(network)}: {failed[network]}"
            for port in changes.updated
            for frontend in port.frontends
            for network in self._needs(port, frontend)
            if network in failed
        }

    async def retire(self, changes: Changes) -> None:
        """Remove the routes whose last Service port is gone; one run of `ip`, or none."""
        async with self._lock:
            for name in changes.removed:
                self._hold(name, frozenset())
            for port in changes.updated:
                self._hold(port.name, self._needed(port))
            # What failed before is tried again.
            self._released &= self._routed
            await self._remove(list(self._released))

    async def prune(self) -> None:
        """Remove routes that an earlier run left and no Service port has a use for."""
        async with self._lock:
            await self._remove([its for its in await self._marked() if its not in self._holders])

    async def close(self) -> None:
        """Remove every route of ours."""
        async with self._lock:
            await self._remove(self._routed.union(await self._marked()))

    async def run(self) -> None:
        """Look every half a minute whether the routes are still there. For ever."""
        while True:
            await asyncio.sleep(CHECK_S)
            await self.check()

    async def check(self) -> None:
        """Make those anew that somebody has removed. Where an address is the node's own, too, there is none
        of ours, and nothing to say."""
        async with self._lock:
            missing = self._routed.difference(await self._marked())
            failed = await self._add(sorted(missing, key=_order))
            again = missing.intersection(await self._marked()) if missing else missing
        for network in sorted(again, key=_order):
            _log.warning("%s %s is made anew, since somebody has removed it", self.what, written(network))
        for network, reason in failed.items():
            _log.warning("%s %s is gone: %s", self.what, written(network), reason)

    async def _remove(self, networks: Collection[IPNetwork]) -> None:
        failed = await self._delete(networks)
        gone = [network for network in networks if network not in failed]
        self._routed.difference_update(gone)
        self._released.difference_update(gone)
        for network, reason in failed.items():
            _log.warning("%s %s stays: %s", self.what, written(network), reason)

    # ---- what a kernel without local routes does otherwise (lo_addresses.py) ----

    async def _add(self, networks: Sequence[IPNetwork]) -> Mapping[IPNetwork, str]:
        return await _change("add", networks)

    async def _delete(self, networks: Collection[IPNetwork]) -> Mapping[IPNetwork, str]:
        return await remove_routes(networks)

    async def _marked(self) -> list[IPNetwork]:
        return await marked_routes()

    # ---- who needs what ----

    def _hold(self, name: ServicePortName, networks: frozenset[IPNetwork]) -> None:
        if networks == self._held.get(name):
            return  # its endpoints have changed, as nearly always
        self._holders.update(networks)
        self._released -= networks
        for network in self._held.pop(name, ()):
            self._holders[network] -= 1
            if not self._holders[network]:
                del self._holders[network]
                self._released.add(network)
        if networks:
            self._held[name] = networks

    def _needed(self, port: DesiredServicePort) -> frozenset[IPNetwork]:
        networks = (network for frontend in port.frontends for network in self._needs(port, frontend))
        # Loopback addresses are local already; a NodePort is no address.
        return frozenset(its for its in networks if not its.is_loopback and not its.is_unspecified)


async def marked_routes() -> list[IPNetwork]:
    """The networks whose local routes are ours, by their mark."""
    ours = ("table", "local", "protocol", str(ROUTE_PROTOCOL))
    found: list[IPNetwork] = []
    for family in ("-4", "-6"):
        text = await peek("ip", "-json", family, "route", "show", *ours)
        found += await asyncio.to_thread(_networks, text)
    return found


def _networks(text: str) -> list[IPNetwork]:
    """Of what `ip -json route` prints; tens of milliseconds, where they are thousands."""
    return [ip_network(route["dst"]) for route in json.loads(text or "[]")]


async def remove_routes(networks: Iterable[IPNetwork]) -> Mapping[IPNetwork, str]:
    """Remove our local routes of `networks`; returns those that stayed, with the reason."""
    return await _change("del", sorted(networks, key=_order))


def written(network: IPNetwork) -> str:
    """As people write it: a single address without the length of its prefix."""
    return str(network.network_address) if network.num_addresses == 1 else str(network)


async def _change(verb: str, networks: Sequence[IPNetwork]) -> Mapping[IPNetwork, str]:
    """Run one batch of `ip route`; returns the networks that it failed for."""
    if not networks:
        return {}
    try:
        # -force: go on after a line that fails, so that the others are unharmed.
        done = await run("ip", "-force", "-batch", "-", stdin=render_batch(verb, networks))
    except CommandFailed as error:
        return dict.fromkeys(networks, str(error))
    return {networks[line - 1]: reason for line, reason in parse_failures(done.stderr).items()}


async def try_local_routes() -> str:
    """Why this machine makes no local routes; empty when it does. Changes nothing.

    One is made in a network namespace that is thrown away. A process that may not make namespaces asks
    for one that is there already, which a kernel that knows local routes says.
    """
    words = "route add local {ip} dev lo protocol 117 table local"
    there = words.format(ip="192.0.2.1")
    done = await run("unshare", "--net", "sh", "-c", f"ip link set lo up && ip {there}")
    if done.status and complaint(done.stderr).startswith("unshare:"):
        done = await run("ip", *words.format(ip="127.0.0.1").split())
    finding = complaint(done.stderr) if done.status else ""
    return "" if finding in _ALREADY_SO else finding


def render_batch(verb: str, networks: Sequence[IPNetwork]) -> str:
    """Input for `ip -batch -`: one line a network."""
    tail = f"dev lo protocol {ROUTE_PROTOCOL} table local"
    return "".join(f"route {verb} local {network} {tail}\n" for network in networks)


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


def _order(network: IPNetwork) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen
