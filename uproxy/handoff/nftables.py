"""Services carried by nftables: DNAT, in the table `inet uproxy-handoff`.

Owns that table. Its chains come before those that capture traffic for the relay (priority -106; -111, ahead
of its guard too, for addresses that nobody guards): what they translate the others never see, and what they
do not know falls to the relay. So a move is one transaction that adds or deletes an address in a map, and the
capture's rules stay as they are.

The number of base chains, sets and rules that every packet meets is constant. An address adds elements, and a
chain of its own with one rule, which counts its turns; with session affinity also a chain and a set for each
endpoint. The constant part is `nft_chains.py`, what changes later `nft_batch.py`. Sources: nft(8);
nf_nat_core.c, which asks the next chain while a connection has no
translation yet; KEP-3866 for kube-proxy's use of maps.
"""

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import chain as chained

from uproxy.handoff import accounting
from uproxy.handoff.claims import Claims
from uproxy.handoff.conntrack_tally import Tally
from uproxy.handoff.forwarding import not_forwarded
from uproxy.handoff.mechanism import NOBODY, Clients, Key, Seen
from uproxy.handoff.mechanism import Counts as Had
from uproxy.handoff.nft_batch import Batch, Counter, Counts, Leg, LegKey, Lookup, dispatch, legs
from uproxy.handoff.nft_batch import clients as clients_of
from uproxy.handoff.nft_batch import counter as counter_of
from uproxy.handoff.nft_batch import counters as counters_of
from uproxy.handoff.nft_chains import NOTED, TABLE, table
from uproxy.handoff.nft_look import TableLook
from uproxy.handoff.nft_tally import FirstPackets
from uproxy.handoff.plan import KernelPort
from uproxy.kernel.conntrack import Conntrack
from uproxy.kernel.conntrack_looks import Alike
from uproxy.kernel.conntrack_messages import Translated
from uproxy.kernel.nft import NftNetlink, remove_table
from uproxy.kernel.nft_trial import refusal
from uproxy.model.affinity import Pinned
from uproxy.model.frontend import Backend
from uproxy.model.names import IPAddress, IPNetwork, ServicePortName, Vip

_Legs = dict[LegKey, tuple[str, Leg]]
"""With their chains."""


@dataclass(frozen=True, slots=True)
class _Move:
    """What Service ports have in the kernel from now on, all that these have."""

    legs: dict[ServicePortName, _Legs] = field(default_factory=dict)
    leads: dict[ServicePortName, dict[Lookup, str]] = field(default_factory=dict)
    counted: dict[ServicePortName, dict[Counter, Counts]] = field(default_factory=dict)
    here: dict[ServicePortName, dict[IPAddress, bool]] = field(default_factory=dict)


class NftablesHandoff:
    """A Mechanism."""

    name = "nftables"
    knows_clients = True

    def __init__(self, conntrack: Conntrack) -> None:
        self._link, self._table = NftNetlink(), TableLook()
        self._conntrack = conntrack
        self._legs: dict[ServicePortName, _Legs] = {}
        """None of what was taken back; it is here until its last connection has ended."""
        self._leads: Claims[Lookup, str] = Claims()
        self._counted: Claims[Counter, Counts] = Claims(lambda its: its.leads)
        self._here: Claims[IPAddress, bool] = Claims()
        self._tally, self._first_packets = Tally(), FirstPackets()
        self._busy: set[Counter] = set()
        """Those that have connections, by the last look."""
        self._next = 0

    def refusal(self, port: KernelPort) -> str | None:
        """Anything that `plan.kernel_port` lets through."""
        return "an IPVS scheduler is asked for" if port.scheduler != "rr" else None

    async def begin(self, inside: Sequence[IPNetwork]) -> None:
        """Put an empty table in the place of any older one."""
        await asyncio.to_thread(self._begin, inside)
        self._forget_all()
        accounting.switch_on()
        await self._conntrack.look()  # what there is by now is not counted

    def _begin(self, inside: Sequence[IPNetwork]) -> None:
        before = accounting.own(_comments(self._link))
        self._link.commit(table(inside, accounting.note(before)).commands())

    async def put(self, ports: Sequence[KernelPort], clients: Clients = NOBODY) -> None:
        """One transaction for all of them."""
        batch, move = Batch(), _Move()
        for port in ports:
            before = self._legs.get(port.name, {})
            self._renew(batch, move, before, port)
            for key, (chain, leg) in move.legs[port.name].items():
                if key not in before:
                    batch.pin(chain, leg, clients.get(port.name, ()))
        await self._commit(batch, move)

    async def _commit(self, batch: Batch, move: _Move) -> None:
        """Whoever gives up what somebody else has, too, does not take it from him."""
        counted = self._counted.difference(move.counted)
        batch.lead(self._leads.difference(move.leads))
        batch.count(counted)
        batch.here(self._here.difference(move.here))
        # In a thread: somebody else's transaction may be long.
        await asyncio.to_thread(lambda: self._link.commit(batch.commands()))
        self._leads.settle(move.leads)
        self._counted.settle(move.counted)
        self._here.settle(move.here)
        self._legs.update(move.legs)
        self._first_packets.gone(counter for counter, (_, now) in counted.items() if now is None)

    def _renew(self, batch: Batch, move: _Move, before: _Legs, port: KernelPort) -> None:
        now, leads, led = _Legs(), dict[Lookup, str](), dict[Counter, Counts]()
        for leg, kind in legs(port):
            chain, old = before.get(leg.key) or (self._new_name(), None)
            batch.chain(chain, leg, old)
            now[leg.key] = chain, leg
            leads[dispatch(kind, leg.vip)] = chain
            led.update((counter_of(leg.vip, backend), Counts(backend, True)) for backend in leg.backends)
        for key in before.keys() - now.keys():
            batch.remove(*before[key])
        move.legs[port.name], move.leads[port.name] = now, leads
        move.counted[port.name] = {**self._ending(port.name), **led}
        move.here[port.name] = dict.fromkeys(port.here, True)

    def _ending(self, name: ServicePortName) -> dict[Counter, Counts]:
        """What is counted until connections to a removed endpoint have ended."""
        return {counter: its._replace(leads=False) for counter, its in self._counted.of(name).items()}

    async def clients(self, names: Collection[ServicePortName]) -> Clients:
        """By the sets of its chains."""
        return await asyncio.to_thread(lambda: {name: self._clients(name) for name in names})

    def _clients(self, name: ServicePortName) -> Collection[Pinned]:
        """Blocks. Of who has called several addresses, and was with several endpoints, the last one."""
        last: dict[bytes, tuple[float, Backend]] = {}
        for (_, _, timeout_s), (chain, leg) in self._legs.get(name, {}).items():
            for set_name, backend in clients_of(chain, leg):
                for ip, left_ms in self._link.clients(TABLE, set_name):
                    idle_s = (timeout_s or 0) - left_ms / 1000
                    if ip not in last or idle_s < last[ip][0]:
                        last[ip] = idle_s, backend
        return [Pinned(str(ip_address(ip)), backend, idle_s) for ip, (idle_s, backend) in last.items()]

    def _new_name(self) -> str:
        self._next += 1
        return f"s{self._next}"

    async def take(self, names: Collection[ServicePortName]) -> None:
        """One transaction: their addresses go; connections keep their translation without any rule."""
        batch, move = Batch(), _Move()
        for name in names:
            if not self._legs.get(name):
                continue
            for chain, leg in self._legs[name].values():
                batch.remove(chain, leg)
            move.legs[name], move.leads[name], move.here[name] = {}, {}, {}
            move.counted[name] = self._ending(name)
        if move.legs:
            await self._commit(batch, move)

    async def drop_flows(self, served: Mapping[ServicePortName, Collection[tuple[Vip, Backend]]]) -> None:
        """Have conntrack forget them, but where somebody else leads them there now."""
        kept = {counter_of(*pair) for pairs in served.values() for pair in pairs}
        known = {counter for name in served for counter in self._counted.of(name)}
        gone = {
            counter
            for counter in known - kept
            if not any(its.leads and name not in served for name, its in self._counted.on(counter).items())
        }
        if gone:
            await self._conntrack.forget(lambda flow: any(counter in gone for counter in counters_of(flow)))

    async def tend(self) -> Collection[Key]:
        """Count no longer for endpoints that nobody is led to, once their last connection has ended."""
        move, gone = _Move(), list[Key]()
        for name in self._legs:
            counted = self._counted.of(name)
            kept = {counter: its for counter, its in counted.items() if its.leads or counter in self._busy}
            if len(kept) < len(counted):
                move.counted[name] = kept
                ended = {its.backend for its in counted.values()} - {its.backend for its in kept.values()}
                gone += [(name, backend) for backend in ended]
        if move.counted:
            await self._commit(Batch(), move)
        for name in [name for name, its in self._legs.items() if not its and not self._counted.of(name)]:
            del self._legs[name]
        self._tally.forget(gone)
        self._first_packets.forget(gone)
        return gone

    async def look(self) -> Seen:
        """Connections are read of all sets that have an element, bytes of conntrack."""
        if not self._legs:
            return Seen()
        flows = await self._conntrack.look()
        return await asyncio.to_thread(self._seen, flows)

    def _seen(self, flows: Mapping[Translated, Alike]) -> Seen:
        """Blocks: tens of thousands of counters take a while."""
        owners = {counter: (name, its.backend) for counter, name, its in self._counted.owners()}
        whose = [
            (next((one for one in counters_of(flow) if one in owners), None), its)
            for flow, its in flows.items()
        ]
        self._busy = {counter for counter, its in whose if counter is not None and its.open}
        self._tally.see((owners[counter], its) for counter, its in whose if counter is not None)
        self._first_packets.see(self._connections(owners))
        counts = {key: its._replace(connections=0) for key, its in self._tally.counts().items()}
        for key, connections in self._first_packets.sums().items():
            counts[key] = counts.get(key, Had(0, 0, 0))._replace(connections=connections)
        return Seen(counts, self._tally.open(self._legs))

    def _connections(self, owners: Mapping[Counter, Key]) -> Iterator[tuple[Counter, Key, int]]:
        """Of elements that have counted any."""
        for suffix, size in {(counter.suffix, len(counter.key)) for counter in owners}:
            for its in self._link.counters(TABLE, f"new_{suffix}", size):
                counter = Counter(suffix, its.key)
                if its.packets and counter in owners:
                    yield counter, owners[counter], its.packets

    async def lost(self) -> str | None:
        """By the table's chains, rules and elements."""
        counted = ((f"new_{one.suffix}", one.key) for one, _, _ in self._counted.owners())
        here = ((f"here{ip.version}", ip.packed * 2) for ip, _, _ in self._here.owners())
        elements = chained((lookup for lookup, _, _ in self._leads.owners()), counted, here)
        return await asyncio.to_thread(self._table.lost, self._legs.values(), elements)

    async def close(self) -> None:
        """Remove the table, of earlier runs too."""
        await remove()
        self._link.close()
        self._forget_all()

    def _forget_all(self) -> None:
        for its in (self._legs, self._leads, self._counted, self._here, self._tally, self._first_packets):
            its.clear()
        self._table.begin()


async def refusal_here() -> str | None:
    """Why this machine cannot do it; None when it can. Leaves nothing behind."""
    if reason := not_forwarded(4):
        return reason
    return await asyncio.to_thread(refusal, table((), accounting.note(before=False)))


async def remove() -> list[str]:
    """Remove the table of any run; returns what was there, in words. Raises CommandFailed."""
    return await asyncio.to_thread(_remove)


def _remove() -> list[str]:
    with closing(NftNetlink()) as link:
        comments = _comments(link)
    removed = remove_table(TABLE)
    return [*removed, *accounting.put_back(comments)] if removed else []


def _comments(link: NftNetlink) -> str:
    """One of them says what accounting was; empty when there is no such table."""
    return "\n".join(link.comments(TABLE, NOTED))
