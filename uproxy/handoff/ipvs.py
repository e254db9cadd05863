"""Services carried by IPVS: a virtual server for each address, endpoints as its destinations.

Owns when a virtual server comes, changes and goes. The messages are `kernel/ipvs.py`'s, what was counted
`ipvs_tally.py`'s, everything around them `ipvs_rules.py`'s. Refuses to touch virtual servers that do not
have our mark.

There: the virtual server is made, then its address enters the set of what IPVS gets. Back: the address leaves
the set, so that new connections are captured for the relay again, and the virtual server goes when its last
connection has. An endpoint that goes has weight 0 until then. UDP has no end: there both go at once, and each
flow loses one datagram, by which IPVS finds out; a program on the node gets EPERM for it.

Between a virtual server and its first destination are a few microseconds, in which a datagram is refused; a
TCP connection is not, since it is still captured. Works with the captures that redirect: with `bind` the
address of a virtual server that drains could not be given back.

Sources: ip_vs_ctl.c and ip_vs_core.c in Linux.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from uproxy.errors import CommandFailed
from uproxy.handoff import ipvs_rules
from uproxy.handoff.claims import Claims
from uproxy.handoff.forwarding import not_forwarded
from uproxy.handoff.ipvs_plan import Change, Claim, Shape, changes, claims
from uproxy.handoff.ipvs_rules import Kind
from uproxy.handoff.ipvs_tally import Tally
from uproxy.handoff.mechanism import NOBODY, Clients, Key, Seen
from uproxy.handoff.plan import KernelPort
from uproxy.kernel.conntrack import Conntrack
from uproxy.kernel.ipvs import Command, Destination, Ipvs, Server, Traffic, delete_server, node_addresses
from uproxy.kit.commands import run
from uproxy.model.frontend import Backend
from uproxy.model.names import Family, IPAddress, IPNetwork, Protocol, ServicePortName, Vip

T = TypeVar("T")

SCHEDULERS = ("rr", "wrr", "lc", "wlc", "sh", "mh")


@dataclass(slots=True)
class _Programmed:
    """A virtual server of ours."""

    shape: Shape
    owner: ServicePortName | None = None
    """None: a run before this one had it, and it drains."""
    leads: bool = False
    """Its address is in the set: new connections come to it."""


class IpvsHandoff:
    """A Mechanism."""

    name = "ipvs"
    knows_clients = False

    def __init__(self, conntrack: Conntrack) -> None:
        self._conntrack = conntrack
        self._ipvs = Ipvs()
        self._servers: dict[Vip, _Programmed] = {}
        self._claims: Claims[Vip, Claim] = Claims(lambda its: not its.expanded)
        self._node_ports: dict[ServicePortName, KernelPort] = {}
        """Those that have some, which the node's addresses multiply."""
        self._addresses: set[IPAddress] = set()
        self._problems: Mapping[Family, str] = {}
        self._inside: Sequence[IPNetwork] = ()
        self._tally = Tally()
        self._here: Claims[IPAddress, bool] = Claims()

    def refusal(self, port: KernelPort) -> str | None:
        """Who the client is decides nothing here; nor is there a family that the kernel does not serve."""
        if any(its.backends != its.inside for its in port.vips):
            return "clients on this node have other endpoints than those from outside"
        if port.scheduler not in SCHEDULERS:
            return f"no scheduler {port.scheduler}"
        families = {its.vip.family for its in port.vips}
        return next((reason for family, reason in self._problems.items() if family in families), None)

    # ---- the constant part ----

    async def begin(self, inside: Sequence[IPNetwork]) -> None:
        """Empty sets, so that everything new is the relay's; what an earlier run has in hand finishes."""
        self._inside = inside
        self._problems = await ipvs_rules.program(inside)
        for its in (self._servers, self._claims, self._node_ports, self._tally, self._here):
            its.clear()
        self._addresses = await asyncio.to_thread(node_addresses)
        self._servers = await self._call(self._adopted)
        await ipvs_rules.move(("add", Kind.ENDS, self._servers))
        await ipvs_rules.route("del", await ipvs_rules.routes() - {vip.ip for vip in self._servers})

    def _adopted(self) -> dict[Vip, _Programmed]:
        """Blocks. Virtual servers of ours that have connections; the others are removed."""
        found = {}
        for vip, server in self._ipvs.servers().items():
            destinations = self._ipvs.destinations(vip)
            if vip.protocol is Protocol.UDP or not _busy(destinations):
                self._ipvs.change([delete_server(vip)])
                continue
            weights = {one: its.weight for one, its in destinations.items()}
            found[vip] = _Programmed(Shape(server, weights))
            for one, its in destinations.items():
                self._tally.begins(vip, one, its.traffic)
        return found

    async def close(self) -> None:
        """Remove everything. Raises CommandFailed."""
        self._servers.clear()
        self._node_ports.clear()
        await remove()
        self._ipvs.close()

    # ---- moves ----

    async def put(self, ports: Sequence[KernelPort], clients: Clients = NOBODY) -> None:
        """Virtual servers first, then who comes to them. If it raises, it is as before."""
        wanted = {port.name: dict(claims(port, self._addresses)) for port in ports}
        change = self._planned(self._claims.difference(wanted))
        await self._call(lambda: self._refuse_foreign(change))
        before = {vip: self._shape(vip) for vip in change.shapes}
        here = {port.name: dict.fromkeys(port.here, True) for port in ports}
        come, gone = self._moved_here(here)
        await ipvs_rules.here("add", come)
        try:
            await self._call(lambda: self._program(change))
            await ipvs_rules.route("replace", {vip.ip for vip in change.enter} - self._addresses)
            flows = [vip for vip in change.enter if vip.protocol is Protocol.UDP]
            if flows:
                await self._conntrack.forget_untranslated(flows)
            await ipvs_rules.move(("add", Kind.LEADS, change.enter), ("del", Kind.ENDS, change.enter))
            await self._leave(change.leave)
        except CommandFailed:
            await self._undo(change, before)
            raise
        await ipvs_rules.here("del", gone)
        self._here.settle(here)
        self._claims.settle(wanted)
        self._settle(change)
        for port in ports:
            self._node_ports.pop(port.name, None)
            if any(its.vip.is_node_port for its in port.vips):
                self._node_ports[port.name] = port
        await self._unroute([vip for vip, shape in change.shapes.items() if shape is None])

    async def clients(self, names: Collection[ServicePortName]) -> Clients:
        """It keeps them to itself."""
        return NOBODY

    def _refuse_foreign(self, change: Change) -> None:
        """Blocks. Asked before, since our destinations would be added to the virtual server of others."""
        new = [vip for vip, shape in change.shapes.items() if shape is not None and vip not in self._servers]
        for vip in self._ipvs.existing(new):
            raise CommandFailed(f"ipvs: the virtual server {vip} is somebody else's")

    def _moved_here(
        self, wanted: Mapping[ServicePortName, Mapping[IPAddress, bool]]
    ) -> tuple[list[IPAddress], list[IPAddress]]:
        """Endpoints that are on this node: who comes, and who goes."""
        moved = self._here.difference(wanted)
        come = [ip for ip, (_, now) in moved.items() if now]
        return come, [ip for ip, (_, now) in moved.items() if not now]

    def _planned(self, moved: Mapping[Vip, tuple[Claim | None, Claim | None]]) -> Change:
        change = Change()
        for vip, (_, claim) in moved.items():
            if claim is None:
                self._plan_to_leave(change, vip, self._servers[vip])
                continue
            change.owners[vip] = claim.name
            change.shapes[vip] = self._wanted(vip, claim.server, claim.backends)
            if vip not in self._servers or not self._servers[vip].leads:
                change.enter.append(vip)
        return change

    def _plan_to_leave(self, change: Change, vip: Vip, its: _Programmed) -> None:
        if its.leads:
            change.leave.append(vip)
        if vip.protocol is Protocol.UDP:
            change.shapes[vip] = None

    def _wanted(self, vip: Vip, server: Server, backends: Iterable[Backend]) -> Shape:
        """Who is not wanted any more finishes with weight 0; UDP has nothing to finish."""
        weights = dict.fromkeys(backends, 1)
        before = self._servers.get(vip)
        if before is not None and vip.protocol is not Protocol.UDP:
            weights = dict.fromkeys(before.shape.weights, 0) | weights
        return Shape(server, weights)

    def _commands(self, change: Change) -> list[Command]:
        found: list[Command] = []
        for vip, shape in change.shapes.items():
            found += changes(vip, self._shape(vip), shape)
        return found

    def _shape(self, vip: Vip) -> Shape | None:
        its = self._servers.get(vip)
        return its.shape if its is not None else None

    def _program(self, change: Change) -> None:
        """Blocks. Change destinations and virtual servers, and read the counters of those that come or go."""
        before = {vip: set(shape.weights) if (shape := self._shape(vip)) else set() for vip in change.shapes}
        after = {vip: set(shape.weights) if shape else set() for vip, shape in change.shapes.items()}
        # What changes hands ends for the one, and begins for the other.
        same = {vip: set() if self._changes_hands(change, vip) else before[vip] & after[vip] for vip in after}
        change.ends = self._counters({vip: before[vip] - same[vip] for vip in after})
        self._ipvs.change(self._commands(change))
        change.begins = self._counters({vip: after[vip] - same[vip] for vip in after})

    def _changes_hands(self, change: Change, vip: Vip) -> bool:
        return vip in self._servers and change.owners.get(vip) not in (None, self._servers[vip].owner)

    def _counters(self, wanted: Mapping[Vip, Collection[Backend]]) -> list[tuple[Vip, Backend, Traffic]]:
        return [
            (vip, one, its.traffic)
            for vip, some in wanted.items()
            if some
            for one, its in self._ipvs.destinations(vip).items()
            if one in some
        ]

    def _settle(self, change: Change) -> None:
        for vip, backend, traffic in change.ends:
            self._tally.ends(self._servers[vip].owner, vip, backend, traffic)
        for vip, backend, traffic in change.begins:
            self._tally.begins(vip, backend, traffic)
        for vip, shape in change.shapes.items():
            if shape is None:
                self._servers.pop(vip, None)
            elif vip in self._servers:
                self._servers[vip].shape = shape
            else:
                self._servers[vip] = _Programmed(shape)
        for vip, owner in change.owners.items():
            its = self._servers[vip]
            its.owner, its.leads = owner, True
        for vip in change.leave:
            if vip in self._servers:
                self._servers[vip].leads = False

    async def _undo(self, change: Change, before: Mapping[Vip, Shape | None]) -> None:
        """Back to what was, from wherever it has got; what cannot be undone is left."""

        def undo() -> None:
            servers = self._ipvs.servers()
            for vip, shape in before.items():
                now = None
                if vip in servers:
                    weights = {one: its.weight for one, its in self._ipvs.destinations(vip).items()}
                    now = Shape(servers[vip], weights)
                self._ipvs.change(changes(vip, now, shape))

        for step in (
            self._leave([vip for vip in change.enter if before[vip] is not None]),
            ipvs_rules.move(("del", Kind.LEADS, change.enter), ("add", Kind.LEADS, change.leave)),
            self._call(undo),
            self._unroute(change.enter),
        ):
            try:
                await step
            except CommandFailed:
                continue

    async def take(self, names: Collection[ServicePortName]) -> None:
        """Out of the set; what has connections stays until they have ended."""
        nothing: Mapping[ServicePortName, Mapping[Vip, Claim]] = {name: {} for name in names}
        nobody: Mapping[ServicePortName, Mapping[IPAddress, bool]] = {name: {} for name in names}
        change = self._planned(self._claims.difference(nothing))
        await self._leave(change.leave)
        await self._call(lambda: self._program(change))
        self._claims.settle(nothing)
        self._settle(change)
        await ipvs_rules.here("del", self._moved_here(nobody)[1])
        self._here.settle(nobody)
        for name in names:
            self._node_ports.pop(name, None)
        await self._unroute([vip for vip, shape in change.shapes.items() if shape is None])

    async def _leave(self, vips: Sequence[Vip]) -> None:
        ends = [vip for vip in vips if vip.protocol is Protocol.TCP]
        await ipvs_rules.move(("add", Kind.ENDS, ends), ("del", Kind.LEADS, vips))

    async def drop_flows(self, served: Mapping[ServicePortName, Collection[tuple[Vip, Backend]]]) -> None:
        """They have lost their way with their destination, or with the virtual server."""

    async def _unroute(self, vips: Iterable[Vip]) -> None:
        held = {vip.ip for vip in self._servers}
        await ipvs_rules.route("del", {vip.ip for vip in vips} - held - self._addresses)

    # ---- the watch ----

    async def tend(self) -> Collection[Key]:
        """Remove what has drained, and follow the addresses of the node."""
        if self._node_ports:
            await self._follow_addresses()
        change = await self._call(self._drained)
        await self._call(lambda: self._program(change))
        self._settle(change)
        gone = [vip for vip, shape in change.shapes.items() if shape is None]
        await ipvs_rules.move(("del", Kind.ENDS, gone))
        await self._unroute(gone)
        return self._tally.forget(
            {(its.owner, one) for its in self._servers.values() if its.owner for one in its.shape.weights}
        )

    async def _follow_addresses(self) -> None:
        addresses = await asyncio.to_thread(node_addresses)
        if addresses != self._addresses:
            self._addresses = addresses
            await self.put(list(self._node_ports.values()))

    def _drained(self) -> Change:
        """Blocks. Destinations without weight and connections, virtual servers that nobody is led to."""
        change = Change()
        for vip, its in self._servers.items():
            if its.leads and all(its.shape.weights.values()):
                continue
            now = self._ipvs.destinations(vip)
            if not its.leads and not _busy(now):
                change.shapes[vip] = None
                continue
            idle = {one for one, destination in now.items() if not _busy({one: destination})}
            weights = {one: weight for one, weight in its.shape.weights.items() if weight or one not in idle}
            if its.leads and len(weights) < len(its.shape.weights):
                change.shapes[vip] = Shape(its.shape.server, weights)
        return change

    # ---- counts ----

    async def look(self) -> Seen:
        """Read each virtual server that has an owner. TCP is open from the handshake's end up to the first
        FIN, UDP while the kernel remembers it. Raises CommandFailed when one of them is gone."""
        found = await self._call(self._read)
        opened: dict[ServicePortName, int] = {its.owner: 0 for its in self._servers.values() if its.owner}
        for name, vip, _, one in found:
            opened[name] += one.active + (one.inactive if vip.protocol is Protocol.UDP else 0)
        return Seen(self._tally.tell((name, vip, end, one.traffic) for name, vip, end, one in found), opened)

    def _read(self) -> list[tuple[ServicePortName, Vip, Backend, Destination]]:
        """Blocks."""
        found = []
        for vip, its in self._servers.items():
            if its.owner is None:
                continue
            now = self._ipvs.destinations(vip)
            if its.shape.weights.keys() - now.keys():
                raise CommandFailed(f"virtual server {vip} is not as it was any more")
            found += [(its.owner, vip, one, destination) for one, destination in now.items()]
        return found

    async def lost(self) -> str | None:
        """By rules, elements and routes; `look` misses virtual servers."""
        families = [family for family in ipvs_rules.FAMILIES if family not in self._problems]
        leads = [vip for vip, its in self._servers.items() if its.leads]
        here = [ip for ip, _, _ in self._here.owners()]
        routed = {vip.ip for vip in self._servers} - self._addresses
        return await ipvs_rules.lost(families, self._inside, leads, here, routed)

    async def _call(self, function: Callable[[], T]) -> T:
        """Have netlink at work in a thread. Raises CommandFailed."""
        try:
            return await asyncio.to_thread(function)
        except OSError as error:
            raise CommandFailed(f"ipvs: {error.strerror}") from error


def _busy(destinations: Mapping[Backend, Destination]) -> bool:
    return any(its.active or its.inactive for its in destinations.values())


# ---- any run ----


async def refusal_here() -> str | None:
    """Why this machine cannot do it; None when it can. May load kernel modules, and leaves nothing else."""
    if reason := not_forwarded(4):
        return reason
    return await ipvs_rules.trial() if await is_here() else "the kernel has no IPVS (module ip_vs)"


async def is_here() -> bool:
    """Whether the kernel has it. May load its modules."""
    ipvs = Ipvs()
    try:
        await asyncio.to_thread(ipvs.servers)
    except OSError:
        try:
            await run("modprobe", "--quiet", "ip_vs")
            await asyncio.to_thread(ipvs.servers)
        except (OSError, CommandFailed):
            return False
    finally:
        ipvs.close()
    return True


async def remove() -> list[str]:
    """Remove what any run has left; returns what was there, in words. Raises CommandFailed."""
    removed = await asyncio.to_thread(_remove_servers)
    routes = await ipvs_rules.routes()
    await ipvs_rules.route("del", routes)
    removed += [f"local route {ip}" for ip in sorted(routes, key=str)]
    return [*removed, *await ipvs_rules.unprogram()]


def _remove_servers() -> list[str]:
    ipvs = Ipvs()
    try:
        vips = list(ipvs.servers())
    except OSError:
        return []  # a kernel without IPVS
    try:
        ipvs.change([delete_server(vip) for vip in vips])
    except OSError as error:
        raise CommandFailed(f"ipvs: {error.strerror}") from error
    finally:
        ipvs.close()
    return [f"virtual server {vip}" for vip in vips]
