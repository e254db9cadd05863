"""What one transaction says, when Service ports come to the kernel, change, or go. Pure.

Owns the way of a connection through the table: the element of a map that leads an address to its chain, the
chain's rule with its endpoints in turn, the elements that count. Refuses to know their bytes
(`nft_messages.py`), and who is programmed already (`nftables.py`).
"""

import socket
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain as chained
from typing import NamedTuple, TypeVar

from uproxy.handoff.plan import KernelPort
from uproxy.kernel import nft_messages as nft
from uproxy.kernel.conntrack_messages import Translated
from uproxy.kernel.nft_messages import Message
from uproxy.model.affinity import Pinned
from uproxy.model.frontend import Backend
from uproxy.model.names import IPAddress, Vip

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
    """The messages of one transaction. References have to go before what they refer to; within a set,
    deletions come first: an element that changes is both. Clients may be many: they become elements when
    `messages` is called, which may be in a thread."""

    def __init__(self) -> None:
        self._chains: list[Message] = []
        self._deleted: dict[str, list[bytes]] = {}
        self._added: dict[str, list[bytes]] = {}
        self._rules: list[Message] = []
        self._last: list[Message] = []
        self._sets = 0
        self._clients: list[tuple[str, Leg, Collection[Pinned]]] = []

    def messages(self) -> list[Message]:
        """All of it, in order."""
        known: dict[str, list[bytes]] = {}
        for name, client in chained.from_iterable(_remembered(*its) for its in self._clients):
            _append(known, name, client)
        deleted = (nft.delete_elements(name, some) for name, some in self._deleted.items())
        added = (nft.add_elements(name, some) for name, some in (*self._added.items(), *known.items()))
        elements = chained.from_iterable(chained(deleted, added))
        return [*self._chains, *self._rules, *elements, *self._last]

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
            _append(self._deleted, name, nft.element(key))
        elif before is None:
            _append(self._added, name, nft.element(key))

    def lead(self, changes: Changed[Lookup, str]) -> None:
        """Addresses that lead elsewhere now. One that moves is never without a chain."""
        for (name, key), (before, now) in changes.items():
            if before is not None:
                _append(self._deleted, name, nft.element(key))
            if now is not None:
                _append(self._added, name, nft.element(key, nft.goto(now)))

    def chain(self, chain: str, leg: Leg, before: Leg | None) -> None:
        """Bring a chain and what it needs in line with its leg."""
        if leg == before:
            return
        if before is None:
            self._chains.append(nft.add_chain(chain))
        if leg.affinity_timeout_s is not None:
            self._sticky(chain, leg, before, leg.affinity_timeout_s)
            return
        if before is None:
            self._chains.append(nft.add_turns(chain, self._new_set(), leg.vip.family, leg.vip.protocol))
        old, now = before.backends if before is not None else (), leg.backends
        kept = {turn for turn, (one, other) in enumerate(zip(old, now, strict=False)) if one == other}
        for turn in range(len(old)):
            if turn not in kept:
                _append(self._deleted, chain, nft.element(nft.turn(turn)))
        for turn, backend in enumerate(now):
            if turn not in kept:
                _append(self._added, chain, nft.element(nft.turn(turn), nft.value(_endpoint(backend))))
        if len(old) != len(now):
            self._rules += [nft.flush_chain(chain)] if old else []
            self._rules.append(
                nft.add_rule(chain, nft.to_turn(leg.vip.family, leg.vip.protocol, len(now), chain))
            )

    def _sticky(self, chain: str, leg: Leg, before: Leg | None, timeout_s: int) -> None:
        """Each endpoint remembers its clients; who is remembered goes there, and is remembered anew."""
        family, old = leg.vip.family, before.backends if before is not None else ()
        if before is not None:
            self._rules.append(nft.flush_chain(chain))
        names = [_sticky_name(chain, backend) for backend in leg.backends]
        for backend, name in zip(leg.backends, names, strict=True):
            if backend not in old:
                dnat = nft.to_endpoint(family, leg.vip.protocol, backend.ip, backend.port)
                self._rules += [
                    nft.add_clients(name, self._new_set(), family, timeout_s, _CLIENTS_MAX),
                    nft.add_chain(name),
                    nft.add_rule(name, nft.remember_client(family, name)),
                    nft.add_rule(name, dnat),
                ]
            self._rules.append(nft.add_rule(chain, nft.known_client(family, name, name)))
        turns = self._new_set()
        self._rules += nft.add_chain_turns(turns, names)
        self._rules.append(nft.add_rule(chain, nft.to_chain_turn(len(names), turns)))
        self._forget(chain, (backend for backend in old if backend not in leg.backends))

    def pin(self, chain: str, leg: Leg, clients: Collection[Pinned]) -> None:
        """Have a new chain remember those who have been with its endpoints, each where he was last."""
        self._clients.append((chain, leg, clients))

    def _new_set(self) -> int:
        self._sets += 1
        return self._sets

    def remove(self, chain: str, leg: Leg) -> None:
        """A chain that nothing leads to any more."""
        self._last += [nft.flush_chain(chain), nft.delete_chain(chain)]
        if leg.affinity_timeout_s is None:
            self._last.append(nft.delete_set(chain))
        else:
            self._forget(chain, leg.backends)

    def _forget(self, chain: str, backends: Iterable[Backend]) -> None:
        for name in (_sticky_name(chain, backend) for backend in backends):
            self._last += [nft.flush_chain(name), nft.delete_chain(name), nft.delete_set(name)]


def _remembered(chain: str, leg: Leg, pinned: Iterable[Pinned]) -> Iterator[tuple[str, bytes]]:
    """Sets of a leg, with elements for them."""
    names = {backend: name for name, backend in clients(chain, leg)}
    last = {one.client: one for one in sorted(pinned, key=_idle_s, reverse=True) if one.backend in names}
    family = socket.AF_INET if leg.vip.family == 4 else socket.AF_INET6
    for client, backend, idle_s in last.values():
        left_ms = round(((leg.affinity_timeout_s or 0) - idle_s) * 1000)
        if left_ms > 0:
            yield names[backend], nft.client(socket.inet_pton(family, client), left_ms)


def _idle_s(one: Pinned) -> float:
    return one.idle_s


def clients(chain: str, leg: Leg) -> Iterator[tuple[str, Backend]]:
    """The sets that remember a leg's clients."""
    if leg.affinity_timeout_s is not None:
        for backend in leg.backends:
            yield _sticky_name(chain, backend), backend


def _append(elements: dict[str, list[bytes]], name: str, one: bytes) -> None:
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
    key = nft.protocol(vip.protocol) + nft.port(vip.port)
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
    return (b"" if vip.is_node_port else vip.ip.packed) + nft.port(vip.port)


def _endpoint(backend: Backend) -> bytes:
    return nft.destination(backend.ip, backend.port)


def _sticky_name(chain: str, backend: Backend) -> str:
    """Names may have letters, digits, `_`, `.`, `/` and `\\`; no colon."""
    return f"{chain}_{str(backend.ip).replace(':', '.')}_{backend.port}"
