"""What one transaction says, when Service ports come to the kernel, change, or go. Pure.

Owns the way of a connection through the table: the element of a map that leads an address to its chain, the
chain's rule with its endpoints in turn, the elements that count. Refuses to know what the kernel is told
(`nft_commands.py`), and who is programmed already (`nftables.py`).
"""

import socket
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from itertools import chain as chained
from typing import NamedTuple, TypeVar

from uproxy.handoff.nft_chains import SETS, TABLE
from uproxy.handoff.plan import KernelPort
from uproxy.kernel import nft_expressions as packet
from uproxy.kernel.conntrack_messages import Translated
from uproxy.kernel.nft_commands import (
    AddChain,
    AddElements,
    AddRule,
    AddSet,
    Command,
    DeleteChain,
    DeleteElements,
    DeleteSet,
    FlushChain,
)
from uproxy.kernel.nft_expressions import numgen
from uproxy.kernel.nft_messages import Element, Verdict, note, note_number
from uproxy.kernel.nft_nat import Dnat, DnatMap
from uproxy.kernel.nft_statements import InSet, Match, Remember, VerdictTurns, goto
from uproxy.kernel.nft_table import Set, Typeof, rule
from uproxy.kernel.nft_types import ADDRESS, INET_PROTO, INET_SERVICE, INTEGER, turn
from uproxy.model.affinity import Pinned
from uproxy.model.frontend import Backend
from uproxy.model.names import Family, IPAddress, Protocol, Vip

_PROTOCOLS = {its: INET_PROTO.pack(its.lower()).ljust(4, b"\0") for its in Protocol}
_CLIENTS_MAX = 65536
"""Of one endpoint under session affinity."""


class Leg(NamedTuple):
    """A way through a chain: clients of one address, to endpoints in turn."""

    vip: Vip
    inside: bool
    """Only for clients on this node and in its Pods, who have other endpoints than those from outside."""
    backends: tuple[Backend, ...]
    affinity_timeout_s: int | None

    @property
    def key(self) -> "LegKey":
        """What stays the same while endpoints come and go."""
        return self.vip, self.inside, self.affinity_timeout_s


LegKey = tuple[Vip, bool, int | None]
Lookup = tuple[str, bytes]
"""A map, and the key by which an address is looked up there."""


class Counter(NamedTuple):
    """One element of the sets that count first packets."""

    suffix: str
    """Of the sets' names: `tcp4`, `udp6_node`."""
    key: bytes


class Counts(NamedTuple):
    """Why one is there."""

    backend: Backend
    leads: bool
    """Whether new connections come; else those that there are have not ended."""


K = TypeVar("K")
V = TypeVar("V")
Changed = Mapping[K, tuple[V | None, V | None]]
"""What is at a key, and what shall be."""


class Batch:
    """The commands of one transaction. References have to go before what they refer to; within a set,
    deletions come first: an element that changes is both. Clients may be many: they become elements when
    `commands` is called, which may be in a thread."""

    def __init__(self) -> None:
        self._chains: list[Command] = []
        self._deleted: dict[str, list[Element]] = {}
        self._added: dict[str, list[Element]] = {}
        self._rules: list[Command] = []
        self._last: list[Command] = []
        self._sets = dict(SETS)
        self._clients: list[tuple[str, Leg, Collection[Pinned]]] = []

    def commands(self) -> list[Command]:
        """All of it, in order."""
        known: dict[str, list[Element]] = {}
        for its, client in chained.from_iterable(_remembered(*its) for its in self._clients):
            self._sets[its.name] = its
            _append(known, its.name, client)
        deleted = (DeleteElements(TABLE, self._sets[name], some) for name, some in self._deleted.items())
        both = (*self._added.items(), *known.items())
        added = (AddElements(TABLE, self._sets[name], some) for name, some in both)
        return [*self._chains, *self._rules, *deleted, *added, *self._last]

    def count(self, changes: Changed[Counter, Counts]) -> None:
        """Begin to count, and end it. What was counted goes with an element, so others than these stay."""
        for counter, (before, now) in changes.items():
            self._come_or_go(f"new_{counter.suffix}", counter.key, before, now)

    def here(self, changes: Changed[IPAddress, bool]) -> None:
        """Endpoints on this node."""
        for ip, (before, now) in changes.items():
            self._come_or_go(f"here{ip.version}", ip.packed * 2, before, now)

    def _come_or_go(self, name: str, key: bytes, before: object, now: object) -> None:
        if now is None:
            _append(self._deleted, name, Element(key))
        elif before is None:
            _append(self._added, name, Element(key))

    def lead(self, changes: Changed[Lookup, str]) -> None:
        """Addresses that lead elsewhere now. One that moves is never without a chain."""
        for (name, key), (before, now) in changes.items():
            if before is not None:
                _append(self._deleted, name, Element(key))
            if now is not None:
                _append(self._added, name, Element(key, leads_to=Verdict("goto", now)))

    def chain(self, chain: str, leg: Leg, before: Leg | None) -> None:
        """Bring a chain and what it needs in line with its leg."""
        if leg == before:
            return
        if before is None:
            self._chains.append(AddChain(TABLE, chain))
        if leg.affinity_timeout_s is not None:
            self._sticky(chain, leg, before, leg.affinity_timeout_s)
            return
        turns = self._sets[chain] = _turns(chain, leg.vip)
        if before is None:
            self._chains.append(AddSet(TABLE, turns))
        old, now = before.backends if before is not None else (), leg.backends
        kept = {turn for turn, (one, other) in enumerate(zip(old, now, strict=False)) if one == other}
        for number in range(len(old)):
            if number not in kept:
                _append(self._deleted, chain, Element(turn(number)))
        for number, backend in enumerate(now):
            if number not in kept:
                _append(self._added, chain, Element(turn(number), leads_to=_endpoint(backend)))
        if len(old) != len(now):
            self._rules += [FlushChain(TABLE, chain)] if old else []
            to_turn = DnatMap(leg.vip.family, numgen(len(now)), chain)
            self._rules.append(AddRule(TABLE, chain, rule(_is(leg.vip.protocol), to_turn)))

    def _sticky(self, chain: str, leg: Leg, before: Leg | None, timeout_s: int) -> None:
        """Each endpoint remembers its clients; who is remembered goes there, and is remembered anew."""
        family, old = leg.vip.family, before.backends if before is not None else ()
        if before is not None:
            self._rules.append(FlushChain(TABLE, chain))
        names = [_sticky_name(chain, backend) for backend in leg.backends]
        for backend, name in zip(leg.backends, names, strict=True):
            if backend not in old:
                self._rules += _remembers(name, leg, backend, timeout_s)
            known = rule(InSet((packet.SADDR[family],), name), goto(name))
            self._rules.append(AddRule(TABLE, chain, known))
        others = rule(VerdictTurns(numgen(len(names)), tuple(names)))
        self._rules.append(AddRule(TABLE, chain, others))
        self._forget(chain, leg, (backend for backend in old if backend not in leg.backends))

    def pin(self, chain: str, leg: Leg, clients: Collection[Pinned]) -> None:
        """Have a new chain remember those who have been with its endpoints, each where he was last."""
        self._clients.append((chain, leg, clients))

    def remove(self, chain: str, leg: Leg) -> None:
        """A chain that nothing leads to any more."""
        self._last += [FlushChain(TABLE, chain), DeleteChain(TABLE, chain)]
        if leg.affinity_timeout_s is None:
            self._last.append(DeleteSet(TABLE, _turns(chain, leg.vip)))
        else:
            self._forget(chain, leg, leg.backends)

    def _forget(self, chain: str, leg: Leg, backends: Iterable[Backend]) -> None:
        for name in (_sticky_name(chain, backend) for backend in backends):
            its = _known_clients(name, leg.vip.family, leg.affinity_timeout_s or 0)
            self._last += [FlushChain(TABLE, name), DeleteChain(TABLE, name), DeleteSet(TABLE, its)]


def _turns(name: str, vip: Vip) -> Set:
    """A map of turns to endpoints."""
    return Set(
        name, (INTEGER,), (ADDRESS[vip.family], INET_SERVICE), typeof=turns_type(vip.family, vip.protocol)
    )


@cache
def turns_type(family: Family, protocol: Protocol) -> Typeof:
    """So that a list of the map can be loaded again: with libnftables' own note of what it is (its struct
    nftnl_udata, expr_udata_ops; headers and their fields as enum proto_desc_id has them)."""
    numgen, concatenation, payload = 23, 13, 7
    network_header, address_field = {4: (12, 12), 6: (13, 9)}[family]
    transport_header, port_field = {Protocol.TCP: 8, Protocol.UDP: 6}[protocol], 2
    key = note_number(0, numgen) + note(1, b"".join(map(note_number, range(3), (0, 0xFFFF, 0))))
    parts = [
        note(place, note_number(0, payload) + note(1, note_number(0, header) + note_number(1, its)))
        for place, (header, its) in enumerate(
            ((network_header, address_field), (transport_header, port_field))
        )
    ]
    data = note_number(0, concatenation) + note(1, b"".join(parts))
    words = f"typeof numgen inc mod 65535 : {packet.DADDR[family].text} . {protocol.lower()} dport"
    order = note_number(0, 1) + note_number(1, 0)
    return Typeof(words, order + note(3, key) + note(4, data) + note_number(2, 0))


def _known_clients(name: str, family: Family, timeout_s: int) -> Set:
    """A set of addresses that rules fill, and that forgets them."""
    return Set(name, (ADDRESS[family],), timeout_s=timeout_s, most=_CLIENTS_MAX)


@cache
def _is(protocol: Protocol) -> Match:
    return Match(packet.L4PROTO, protocol.lower())


def _remembers(name: str, leg: Leg, backend: Backend, timeout_s: int) -> Iterator[Command]:
    """An endpoint's chain, with the set of who has been there."""
    family = leg.vip.family
    yield AddSet(TABLE, _known_clients(name, family, timeout_s))
    yield AddChain(TABLE, name)
    yield AddRule(TABLE, name, rule(Remember(packet.SADDR[family], name)))
    to_endpoint = rule(_is(leg.vip.protocol), Dnat(backend.port, backend.ip))
    yield AddRule(TABLE, name, to_endpoint)


def _remembered(chain: str, leg: Leg, pinned: Iterable[Pinned]) -> Iterator[tuple[Set, Element]]:
    """Sets of a leg, with elements for them."""
    names = {backend: name for name, backend in clients(chain, leg)}
    last = {one.client: one for one in sorted(pinned, key=_idle_s, reverse=True) if one.backend in names}
    family = socket.AF_INET if leg.vip.family == 4 else socket.AF_INET6
    for client, backend, idle_s in last.values():
        left_ms = round(((leg.affinity_timeout_s or 0) - idle_s) * 1000)
        if left_ms > 0:
            its = _known_clients(names[backend], leg.vip.family, leg.affinity_timeout_s or 0)
            yield its, Element(socket.inet_pton(family, client), left_ms=left_ms)


def _idle_s(one: Pinned) -> float:
    return one.idle_s


def clients(chain: str, leg: Leg) -> Iterator[tuple[str, Backend]]:
    """The sets that remember a leg's clients."""
    if leg.affinity_timeout_s is not None:
        for backend in leg.backends:
            yield _sticky_name(chain, backend), backend


def _append(elements: dict[str, list[Element]], name: str, one: Element) -> None:
    elements.setdefault(name, []).append(one)


def legs(port: KernelPort) -> Iterator[tuple[Leg, str]]:
    """The ways that a Service port needs, with the map that leads there. Clients inside have one of their own
    where it differs; whoever is not inside has no more endpoints than they. Where it does not, and everybody
    may come, nothing has to be asked before."""
    for its in port.vips:
        if its.backends:
            ahead = its.inside == its.backends and not its.guarded and not its.vip.is_node_port
            kind = "ahead" if ahead else "services"
            yield Leg(its.vip, False, its.backends, port.affinity_timeout_s), kind
        if its.inside and its.inside != its.backends:
            yield Leg(its.vip, True, its.inside, port.affinity_timeout_s), "inside"


def suffix(vip: Vip) -> str:
    """What the names of the sets end with that know a VIP."""
    return f"{vip.protocol.lower()}{vip.family}{'_node' if vip.is_node_port else ''}"


def dispatch(kind: str, vip: Vip) -> Lookup:
    """Where an address is looked up."""
    key = _PROTOCOLS[vip.protocol] + _port(vip.port)
    if vip.is_node_port:
        return f"{kind}_node{vip.family}", key
    return f"{kind}{vip.family}", vip.ip.packed + key


def counter(vip: Vip, backend: Backend) -> Counter:
    """Where connections to an address that one endpoint answers are counted."""
    return Counter(suffix(vip), _at(vip) + _endpoint(backend))


def counters(flow: Translated) -> tuple[Counter, Counter]:
    """The two that may count a connection: by its address, or as a NodePort's."""
    at, anywhere = flow.vips
    return counter(at, flow.backend), counter(anywhere, flow.backend)


def _at(vip: Vip) -> bytes:
    """An address in keys of the sets for its protocol; a NodePort's is its port alone."""
    return (b"" if vip.is_node_port else vip.ip.packed) + _port(vip.port)


def _endpoint(backend: Backend) -> bytes:
    return backend.ip.packed + _port(backend.port)


def _port(number: int) -> bytes:
    return number.to_bytes(2, "big") + b"\0\0"


def _sticky_name(chain: str, backend: Backend) -> str:
    """Names may have letters, digits, `_`, `.`, `/` and `\\`; no colon."""
    return f"{chain}_{str(backend.ip).replace(':', '.')}_{backend.port}"
