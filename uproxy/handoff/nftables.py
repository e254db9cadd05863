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
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from ipaddress import ip_address

from uproxy.handoff import accounting
from uproxy.handoff.conntrack_tally import Tally
from uproxy.handoff.forwarding import not_forwarded
from uproxy.handoff.here import Here, Wanted
from uproxy.handoff.mechanism import NOBODY, Clients, Counts, Key, Seen
from uproxy.handoff.nft_batch import Batch, Counter, Dispatch, Leg, LegKey, dispatch, legs
from uproxy.handoff.nft_batch import clients as clients_of
from uproxy.handoff.nft_batch import counter as counter_of
from uproxy.handoff.nft_batch import counters as counters_of
from uproxy.handoff.nft_chains import NOTED, TABLE, table
from uproxy.handoff.plan import KernelPort
from uproxy.kernel.conntrack import Conntrack
from uproxy.kernel.conntrack_looks import Alike
from uproxy.kernel.conntrack_messages import Translated
from uproxy.kernel.nft import NftNetlink, remove_table
from uproxy.kernel.nft_trial import refusal
from uproxy.model.affinity import Pinned
from uproxy.model.frontend import Backend
from uproxy.model.names import IPNetwork, ServicePortName, Vip


@dataclass(slots=True)
class _Programmed:
    """A Service port in the kernel."""

    dispatch: Dispatch = field(default_factory=dict)
    legs: dict[LegKey, tuple[str, Leg]] = field(default_factory=dict)
    """With their chains."""
    counters: dict[Counter, Backend] = field(default_factory=dict)
    """Kept while connections to a removed endpoint go on."""
    taken_back: bool = False

    def unused(self) -> set[Backend]:
        """Endpoints that nobody is led to any more, and that are counted still."""
        return {*self.counters.values()} - {one for _, leg in self.legs.values() for one in leg.backends}


class NftablesHandoff:
    """A Mechanism."""

    name = "nftables"
    knows_clients = True

    def __init__(self, conntrack: Conntrack) -> None:
        self._link = NftNetlink()
        self._conntrack = conntrack
        self._ports: dict[ServicePortName, _Programmed] = {}
        self._here = Here()
        self._tally = Tally()
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
        batch, after = Batch(), {}
        for port in ports:
            before = self._ports.get(port.name, _Programmed())
            after[port.name] = self._renew(batch, before, port)
            for key, (chain, leg) in after[port.name].legs.items():
                if key not in before.legs:
                    batch.pin(chain, leg, clients.get(port.name, ()))
        await self._commit_moves(batch, {port.name: port.here for port in ports})
        self._ports.update(after)

    async def _commit_moves(self, batch: Batch, here: Wanted) -> None:
        batch.here(*self._here.difference(here))
        await self._commit(batch)
        self._here.settle(here)

    async def _commit(self, batch: Batch) -> None:
        # In a thread: somebody else's transaction may be long.
        await asyncio.to_thread(lambda: self._link.commit(batch.commands()))

    def _renew(self, batch: Batch, before: _Programmed, port: KernelPort) -> _Programmed:
        now = _Programmed(counters=dict(before.counters))
        for leg, kind in legs(port):
            chain, old = before.legs.get(leg.key) or (self._new_name(), None)
            batch.chain(chain, leg, old)
            now.legs[leg.key] = chain, leg
            now.dispatch[dispatch(kind, leg.vip)] = chain
            for backend in leg.backends:
                counter = counter_of(leg.vip, backend)
                if counter not in now.counters:
                    now.counters[counter] = backend
                    batch.count(counter)
        batch.lead(before.dispatch, now.dispatch)
        for key in before.legs.keys() - now.legs.keys():
            batch.remove(*before.legs[key])
        return now

    async def clients(self, names: Collection[ServicePortName]) -> Clients:
        """By the sets of its chains."""
        return await asyncio.to_thread(lambda: {name: self._clients(name) for name in names})

    def _clients(self, name: ServicePortName) -> Collection[Pinned]:
        """Blocks. Of who has called several addresses, and was with several endpoints, the last one."""
        last: dict[bytes, tuple[float, Backend]] = {}
        for (_, _, timeout_s), (chain, leg) in self._ports.get(name, _Programmed()).legs.items():
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
        batch, after = Batch(), {}
        for name in names:
            before = self._ports.get(name)
            if before is None or before.taken_back:
                continue
            batch.lead(before.dispatch, {})
            for chain, leg in before.legs.values():
                batch.remove(chain, leg)
            after[name] = _Programmed(counters=before.counters, taken_back=True)
        if after:
            await self._commit_moves(batch, dict.fromkeys(after, ()))
            self._ports.update(after)

    async def drop_flows(self, served: Mapping[ServicePortName, Collection[tuple[Vip, Backend]]]) -> None:
        """Have conntrack forget them."""
        gone: set[Counter] = set()
        for name, pairs in served.items():
            gone |= self._ports.get(name, _Programmed()).counters.keys() - {
                counter_of(*pair) for pair in pairs
            }
        if gone:
            await self._conntrack.forget(lambda flow: any(counter in gone for counter in counters_of(flow)))

    async def tend(self) -> Collection[Key]:
        """Count no longer for endpoints that nobody is led to, once their last connection has ended."""
        unused = {name: its.unused() for name, its in self._ports.items() if its.taken_back or its.unused()}
        if not unused:
            return ()
        idle = {name: self._tally.idle(name, backends) for name, backends in unused.items()}
        batch = Batch()
        for name, backends in idle.items():
            for counter, backend in self._ports[name].counters.items():
                if backend in backends:
                    batch.count_no_more(counter)
        await self._commit(batch)
        for name, backends in idle.items():
            its = self._ports[name]
            its.counters = {counter: one for counter, one in its.counters.items() if one not in backends}
            if its.taken_back and not its.counters:
                del self._ports[name]
        gone = [(name, backend) for name, backends in idle.items() for backend in backends]
        self._tally.forget(gone)
        return gone

    async def look(self) -> Seen:
        """Connections are read of all sets that have an element, bytes of conntrack."""
        if not self._ports:
            return Seen()
        flows = await self._conntrack.look()
        return await asyncio.to_thread(self._seen, flows)

    def _seen(self, flows: Mapping[Translated, Alike]) -> Seen:
        """Blocks: tens of thousands of counters take a while."""
        owners = {
            counter: (name, backend)
            for name, its in self._ports.items()
            for counter, backend in its.counters.items()
        }
        self._tally.see(
            (next((owners[one] for one in counters_of(flow) if one in owners), None), alike)
            for flow, alike in flows.items()
        )
        counts = {key: its._replace(connections=0) for key, its in self._tally.counts().items()}
        for key, connections in self._connections(owners).items():
            counts[key] = counts.get(key, Counts(0, 0, 0))._replace(connections=connections)
        return Seen(counts, self._tally.open(self._ports))

    def _connections(self, owners: Mapping[Counter, Key]) -> Mapping[Key, int]:
        """Of those that have had any."""
        found: dict[Key, int] = {}
        for suffix, size in {(counter.suffix, len(counter.key)) for counter in owners}:
            for its in self._link.counters(TABLE, f"new_{suffix}", size):
                owner = owners.get(Counter(suffix, its.key)) if its.packets else None
                if owner is not None:
                    found[owner] = found.get(owner, 0) + its.packets
        return found

    async def close(self) -> None:
        """Remove the table, of earlier runs too."""
        await remove()
        self._link.close()
        self._forget_all()

    def _forget_all(self) -> None:
        for its in (self._ports, self._here, self._tally):
            its.clear()


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
