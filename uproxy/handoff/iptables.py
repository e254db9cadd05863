"""Services carried by iptables: DNAT, for machines that have nothing better.

Owns which chain an address has, and what is counted of whom. The rules are `iptables_rules.py`'s, the sums
`conntrack_tally.py`'s. Refuses to touch anything but our own chains, and the switch of `accounting.py`: to
count bytes by rules would take one for each endpoint, which every packet meets.

A change is one `iptables-restore --noflush` for each family. It takes as long as the table is big, and a
first packet passes through all addresses that are handed over: docs/handoff.md has the measurements.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from uproxy.errors import CommandFailed
from uproxy.handoff import accounting
from uproxy.handoff.conntrack_tally import Tally
from uproxy.handoff.forwarding import not_forwarded
from uproxy.handoff.iptables_rules import (
    PREFIX,
    TABLES,
    Change,
    Way,
    chain_name,
    render_begin,
)
from uproxy.handoff.mechanism import NOBODY, Clients, Key, Seen
from uproxy.handoff.plan import KernelPort
from uproxy.kernel.conntrack import Conntrack
from uproxy.kernel.conntrack_looks import Alike
from uproxy.kernel.conntrack_messages import Translated
from uproxy.kit import netfilter
from uproxy.kit.netfilter import PROGRAM, census, lost_rules, remove_chains, restore
from uproxy.kit.programs import execute, peek
from uproxy.model.frontend import Backend
from uproxy.model.names import Family, IPNetwork, Protocol, ServicePortName, Vip

_FAMILIES: tuple[Family, ...] = (4, 6)
_Answered = tuple[Vip, Backend]


@dataclass(slots=True)
class _Programmed:
    """A Service port in the kernel."""

    ways: dict[Vip, tuple[str, Way]] = field(default_factory=dict)
    """With their chains."""
    answered: set[_Answered] = field(default_factory=set)
    """What is counted: kept while connections to a removed endpoint go on."""

    def led(self) -> set[_Answered]:
        """To whom new connections go."""
        return {(vip, backend) for vip, (_, way) in self.ways.items() for backend in way.backends}


class IptablesHandoff:
    """A Mechanism."""

    name = "iptables"
    knows_clients = False

    def __init__(self, conntrack: Conntrack) -> None:
        self._conntrack = conntrack
        self._ports: dict[ServicePortName, _Programmed] = {}
        self._problems: dict[Family, str] = {}
        self._tally = Tally()
        self._busy: set[_Answered] = set()
        """Those that have connections, by the last look."""
        self._next = 0

    def refusal(self, port: KernelPort) -> str | None:
        """Who the client is decides nothing here; nor is there a family that the machine does not serve."""
        if port.scheduler != "rr":
            return "an IPVS scheduler is asked for"
        if any(its.backends != its.inside for its in port.vips):
            return "clients on this node have other endpoints than those from outside"
        families = {its.vip.family for its in port.vips}
        return next((reason for family, reason in self._problems.items() if family in families), None)

    async def begin(self, inside: Sequence[IPNetwork]) -> None:
        """Empty chains, in the place of any older ones."""
        self._problems.clear()
        self._ports.clear()
        self._tally.clear()
        saved = await execute("iptables-save")
        before = accounting.own(saved)
        await restore(4, render_begin(saved, before))
        try:
            await restore(6, render_begin(await execute("ip6tables-save"), before))
        except CommandFailed as error:
            self._problems[6] = str(error)
        else:
            if reason := not_forwarded(6):
                self._problems[6] = reason
        accounting.switch_on()
        await self._conntrack.look()  # what there is by now is not counted

    async def put(self, ports: Sequence[KernelPort], clients: Clients = NOBODY) -> None:
        """One change for each family. If it is refused, what may be left of it nothing leads to."""
        changed, after = {family: Change() for family in _FAMILIES}, {}
        for port in ports:
            before = self._ports.get(port.name, _Programmed())
            after[port.name] = self._renew(changed, before, port)
        await self._apply(changed)
        self._ports.update(after)

    async def clients(self, names: Collection[ServicePortName]) -> Clients:
        """It keeps them to itself."""
        return NOBODY

    def _renew(self, changed: Mapping[Family, Change], before: _Programmed, port: KernelPort) -> _Programmed:
        now = _Programmed(answered=set(before.answered))
        for its in port.vips:
            way, change = Way(its.vip, its.backends, port.affinity_timeout_s), changed[its.vip.family]
            chain, old = before.ways.get(its.vip, (None, None))
            if chain is None:
                chain = self._new_name()
                change.add(chain, way)
            elif way != old:
                change.replace(chain, way)
            now.ways[its.vip] = chain, way
            now.answered.update((its.vip, backend) for backend in its.backends)
        for vip in before.ways.keys() - now.ways.keys():
            changed[vip.family].remove(before.ways[vip][0], vip)
        return now

    def _new_name(self) -> str:
        self._next += 1
        return chain_name(self._next)

    async def take(self, names: Collection[ServicePortName]) -> None:
        """Their addresses go; connections keep their translation without any rule."""
        changed, after = {family: Change() for family in _FAMILIES}, {}
        for name in names:
            before = self._ports.get(name)
            if before is not None:
                for vip, (chain, _) in before.ways.items():
                    changed[vip.family].remove(chain, vip)
                after[name] = _Programmed(answered=before.answered)
        await self._apply(changed)
        self._ports.update(after)

    async def _apply(self, changed: Mapping[Family, Change]) -> None:
        for family, change in changed.items():
            if text := change.text():
                await restore(family, text)

    async def drop_flows(self, served: Mapping[ServicePortName, Collection[tuple[Vip, Backend]]]) -> None:
        """Have conntrack forget them, but where somebody else leads them there now."""
        gone = {its for name in served for its in self._ports.get(name, _Programmed()).answered}
        kept = {pair for pairs in served.values() for pair in pairs}
        kept |= {its for name in self._ports.keys() - served.keys() for its in self._ports[name].led()}
        if gone := gone - kept:
            await self._conntrack.forget(lambda flow: any(one in gone for one in _answered(flow)))

    async def tend(self) -> Collection[Key]:
        """Count no longer for endpoints that nobody is led to, once their last connection has ended."""
        gone: list[Key] = []
        for name, its in list(self._ports.items()):
            kept = its.led() | (its.answered & self._busy)
            ended = {one for _, one in its.answered} - {one for _, one in kept}
            its.answered = kept
            gone += [(name, backend) for backend in ended]
            if not its.ways and not its.answered:
                del self._ports[name]
        self._tally.forget(gone)
        return gone

    async def look(self) -> Seen:
        """What conntrack remembers, and what it did before."""
        if not self._ports:
            return Seen()
        flows = await self._conntrack.look()
        return await asyncio.to_thread(self._seen, flows)

    def _seen(self, flows: Mapping[Translated, Alike]) -> Seen:
        """Blocks: there may be thousands of endpoints."""
        # Of several the one counts to whom new connections go.
        owners = {its: (name, its[1]) for name, port in self._ports.items() for its in port.answered}
        owners |= {its: (name, its[1]) for name, port in self._ports.items() for its in port.led()}
        whose = [
            (next((one for one in _answered(flow) if one in owners), None), its)
            for flow, its in flows.items()
        ]
        self._busy = {one for one, its in whose if one is not None and its.open}
        self._tally.see((owners[one], its) for one, its in whose if one is not None)
        return Seen(self._tally.counts(), self._tally.open(self._ports))

    async def lost(self) -> str | None:
        """By how many rules there are in our chains, and that lead to them."""
        for family in (family for family in _FAMILIES if family not in self._problems):
            wanted = census(render_begin("", accounting_before=False), PREFIX)
            for its in self._ports.values():
                for chain, way in its.ways.values():
                    if way.vip.family == family:
                        one = Change()
                        one.add(chain, way)
                        wanted += census(one.text(), PREFIX)
            if found := await lost_rules(family, wanted, PREFIX):
                return found
        return None

    async def close(self) -> None:
        """Remove everything, of earlier runs too."""
        await remove()
        self._ports.clear()
        self._tally.clear()


def _answered(flow: Translated) -> tuple[_Answered, _Answered]:
    """The two that a connection may be of: an address, or a NodePort."""
    at, anywhere = flow.vips
    return (at, flow.backend), (anywhere, flow.backend)


async def refusal_here() -> str | None:
    """Why this machine cannot do it; None when it can. Leaves nothing behind."""
    if reason := not_forwarded(4):
        return reason
    trial, vip = Change(), Vip(ip_address("192.0.2.1"), 1, Protocol.TCP)
    trial.add(chain_name(1), Way(vip, tuple(Backend(vip.ip, port) for port in (1, 2)), 1))
    script, text = 'printf %s "$1" | iptables-restore --noflush', render_begin("", False) + trial.text()
    return await netfilter.trial(script, text, readable=(("iptables-save", "-t", "nat"),))


async def remove() -> list[str]:
    """Remove chains and jumps of any run; returns what was there, in words. Raises CommandFailed."""
    removed: list[str] = []
    for family in _FAMILIES:
        saved = await peek(f"{PROGRAM[family]}-save")
        removed += accounting.put_back(saved) if family == 4 else []
        removed += await remove_chains(family, saved, TABLES, PREFIX)
    return removed
