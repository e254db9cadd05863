"""Rules as one nftables table, `inet uproxy`: a constant number of sets, chains and statements.

Owns that table and nothing outside it: which VIP is in which of its sets. Refuses to know what is done with
them (`nft_chains.py`). Each call is one transaction, which the kernel takes whole or not at all, so packets
never meet half a change.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing

from uproxy.kernel.nft import NftNetlink, remove_table
from uproxy.kernel.nft_commands import AddElements, Command, Definition, DeleteElements, merged
from uproxy.kernel.nft_messages import Element, Table
from uproxy.kernel.nft_sight import NftSight, lacking
from uproxy.kernel.nft_table import Set
from uproxy.kernel.nft_types import INET_PROTO
from uproxy.model.names import Family, IPAddress, IPNetwork, Protocol, Vip
from uproxy.steering.nft_chains import DELIVER_SETS, FAMILIES, SETS, Chains, chains
from uproxy.steering.rules import RedirectPorts, Rule, RuleDelta, Verdict, alone

TABLE = Table("inet", "uproxy")
_KNOWN = {its.name: its for its in (*SETS, *DELIVER_SETS)}
_PROTOCOLS = {its: INET_PROTO.pack(its.lower()).ljust(4, b"\0") for its in Protocol}


def table(
    ports: RedirectPorts,
    rules: Mapping[Vip, Rule],
    inside: Sequence[IPNetwork],
    more_sets: Sequence[Set] = (),
    more_chains: Chains = (),
) -> Definition:
    """The complete table. `more_sets` are further ones, which `rules` fill too."""
    elements: dict[str, Sequence[Element]] = dict(_by_set({*_elements(rules), *_alone(alone(rules))}))
    for family in FAMILIES:
        elements[f"pods{family}"] = merged(one for one in inside if one.version == family)
    return Definition(TABLE, (*SETS, *more_sets), (*chains(ports), *more_chains), elements)


def changes(delta: RuleDelta) -> list[Command]:
    """Moves elements in and out of the sets."""
    added = {*_elements(delta.add), *_alone(delta.add_alone)}
    removed = {*_elements(delta.remove), *_alone(delta.remove_alone)}
    gone, new = _by_set(removed - added), _by_set(added - removed)
    return [
        *(DeleteElements(TABLE, _KNOWN[name], some) for name, some in gone.items()),
        *(AddElements(TABLE, _KNOWN[name], some) for name, some in new.items()),
    ]


_Placed = tuple[str, Element]
"""A set's name, and what is in it."""


def _by_set(elements: Iterable[_Placed]) -> dict[str, list[Element]]:
    found = defaultdict(list)
    for name, element in sorted(elements):
        found[name].append(element)
    return found


def _elements(rules: Mapping[Vip, Rule]) -> Iterator[_Placed]:
    for vip, rule in rules.items():
        family, kind = vip.family, "_nodeports" if vip.is_node_port else ""
        address = b"" if vip.is_node_port else vip.ip.packed
        port = vip.port.to_bytes(2, "big")
        key = address + _PROTOCOLS[vip.protocol] + port + b"\0\0"
        if rule.verdict is Verdict.REDIRECT:
            yield f"redirect{kind}{family}", Element(address + port + b"\0\0" if address else port)
        elif rule.verdict is not None:
            yield f"{rule.verdict}{kind}{family}", Element(key)
        elif rule.alone:
            yield f"served{family}", Element(key)
        if rule.inside_only:
            yield f"inside{kind}{family}", Element(key)
        if rule.allowed:
            yield f"limited{family}", Element(key)
        for network in rule.allowed:
            first, last = network.network_address.packed, network.broadcast_address.packed
            yield f"allowed{family}", Element(key + first, key + last)


def _alone(ips: Iterable[IPAddress]) -> Iterator[_Placed]:
    return ((f"alone{ip.version}", Element(ip.packed)) for ip in ips)


Make = Callable[[RedirectPorts, Mapping[Vip, Rule], Sequence[IPNetwork]], Definition]


class NftRules:
    """The table `inet uproxy` of this network namespace, as `make` has it."""

    def __init__(self, ports: RedirectPorts, make: Make = table) -> None:
        self.problems: Mapping[Family, str] = {}
        """None: the kernel takes the table for both families, or not at all."""
        self._ports = ports
        self._make = make
        self._link = NftNetlink()
        self._seen: int | None = None
        """The generation in which all was there."""
        self._chains: Mapping[str, int] | None = None
        """What the table has had since it was made."""

    async def replace(self, rules: Mapping[Vip, Rule], inside: Sequence[IPNetwork]) -> None:
        """Program exactly `rules`, in the place of whatever an earlier run left.

        Raises CommandFailed when the kernel took none of it.
        """
        # In a thread: there may be many, and somebody else's transaction may be long.
        await asyncio.to_thread(lambda: self._link.commit(self._make(self._ports, rules, inside).commands()))
        self._seen = self._chains = None

    async def apply(self, delta: RuleDelta) -> None:
        """Program a change. Raises CommandFailed when the kernel took none of it."""
        await asyncio.to_thread(lambda: self._link.commit(changes(delta)))

    async def lost(self, rules: Mapping[Vip, Rule], _inside: Sequence[IPNetwork]) -> str | None:
        """By the table's chains and how many elements its sets have. While nobody has changed any table of
        the machine, one question is all that it costs."""
        return await asyncio.to_thread(self._lost, rules)

    def _lost(self, rules: Mapping[Vip, Rule]) -> str | None:
        """Blocks."""
        with closing(NftSight(TABLE.name)) as sight:
            generation = sight.generation()
            if generation == self._seen:
                return None
            there = sight.rules()
            if self._chains is None:
                self._chains = there
            found = lacking(there, self._chains)
            for name, some in _by_set({*_elements(rules), *_alone(alone(rules))}).items():
                # Intervals that touch are one.
                least = 1 if name.startswith("allowed") else len(some)
                if found is None and len(sight.keys(name)) < least:
                    found = f"{name} lacks elements"
        self._seen = generation if found is None else None
        return found

    async def remove(self) -> list[str]:
        """Remove the table; see `remove`."""
        self._link.close()
        return await remove()


async def remove() -> list[str]:
    """Remove the table of any run; returns what was there, in words. Raises CommandFailed."""
    return await asyncio.to_thread(remove_table, TABLE)
