"""Services carried by nftables: DNAT, in the table `inet uproxy-handoff`.

Owns that table. Its chains come before those that capture traffic for the relay (priority -106): what
they translate the others never see, and what they do not know falls to the relay. So a move is one
transaction that adds or deletes an address in a map, and the capture's rules stay as they are.

The number of base chains, sets and rules that every packet meets is constant. An address adds elements, and a
chain of its own with one rule, which counts its turns; with session affinity also a chain and a set for each
endpoint. A map for each would be shorter, but libnftables lists all maps of the machine at each change: 17 ms
where there are a thousand. Sources: nft(8); nf_nat_core.c, which asks
the next chain while a connection has no translation yet; KEP-3866 for kube-proxy's use of maps.
"""

import asyncio
import re
from collections import Counter as CounterOf
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import product
from typing import NamedTuple

from uproxy.errors import CommandFailed
from uproxy.handoff.conntrack import Conntrack, Translated
from uproxy.handoff.mechanism import Counts
from uproxy.handoff.plan import KernelPort
from uproxy.kit.nft import Nft
from uproxy.model.frontend import Backend
from uproxy.model.names import IPNetwork, Protocol, ServicePortName, Vip

_TABLE = "inet uproxy-handoff"
_CLIENTS_MAX = 65536
"""Of one endpoint under session affinity."""
_ANY = {4: ip_address("0.0.0.0"), 6: ip_address("::")}
_INSIDE_FIRST = 32768
"""Turns of clients inside are counted from here, where they have other endpoints."""
_IP = {4: "ip", 6: "ip6"}
_ADDRESS = {4: "ipv4_addr", 6: "ipv6_addr"}
_HEADERS = {(4, "tcp"): 52, (6, "tcp"): 72, (4, "udp"): 28, (6, "udp"): 48}
"""Of each packet, with TCP timestamps: the kernel counts them, the relay does not."""
_SYN_MORE = 8
"""The options of the first segment each way take so much more."""
_COUNTED = ("new", "to", "from")
_KINDS = tuple(product(("tcp", "udp"), (4, 6), ("", "_node")))
_ELEMENT = re.compile(r"([0-9a-f.: ]+?) counter packets (\d+) bytes (\d+)")


def _key(family: int, node: str) -> str:
    """Of a set that counts: where the client went, but for NodePorts, and who answers."""
    vip = "" if node else f"{_ADDRESS[family]} . "
    return f"{vip}inet_service . {_ADDRESS[family]} . inet_service"


def _tuple(family: int, node: str) -> str:
    """The same, as it is read from a packet's connection."""
    ip = _IP[family]
    vip = "" if node else f"ct original {ip} daddr . "
    return f"{vip}ct original proto-dst . ct reply {ip} saddr . ct reply proto-src"


def _counting(what: str, after: str) -> str:
    return "".join(
        f"\t\tmeta nfproto ipv{family} meta l4proto {protocol} {_tuple(family, node)} "
        f"@{what}_{protocol}{family}{node} {after}\n"
        for protocol, family, node in _KINDS
    )


def _lookups(kind: str) -> str:
    """Node ports come after addresses, and are looked up for the node's own addresses only."""
    own, port = "fib daddr type local", "meta l4proto . th dport"
    return f"""\
		ip daddr . {port} vmap @{kind}4
		ip6 daddr . {port} vmap @{kind}6
		meta nfproto ipv4 ip daddr != 127.0.0.0/8 {own} {port} vmap @{kind}_node4
		meta nfproto ipv6 ip6 daddr != ::1 {own} {port} vmap @{kind}_node6
"""


# - Only a first segment is taken: what the relay has in hand, and conntrack did not see begin, stays there.
# - `new_*` is looked up in chains of type nat, which see the first packet of each connection and no other.
# - Masquerade, always: endpoints see the node's address, as they do with the relay, so that their answers
#   come back here whatever the routes are. An endpoint on the node itself answers here anyway.
# - Packets that `lo` brings back were counted when they left.
_CHAINS = f"""\
	chain take {{
{_lookups("services")}	}}
	chain take_inside {{
{_lookups("inside")}	}}
	chain take_prerouting {{
		type nat hook prerouting priority -106; policy accept;
		meta l4proto tcp tcp flags & (fin | syn | rst | ack) != syn accept
		ip saddr @pods4 goto take_inside
		ip6 saddr @pods6 goto take_inside
		goto take
	}}
	chain take_output {{
		type nat hook output priority -106; policy accept;
		meta l4proto tcp tcp flags & (fin | syn | rst | ack) != syn accept
		goto take_inside
	}}
	chain leave_postrouting {{
		type nat hook postrouting priority 99; policy accept;
		ct status & dnat == 0 accept
{_counting("new", "masquerade")}	}}
	chain leave_input {{
		type nat hook input priority 99; policy accept;
		ct status & dnat == 0 accept
{_counting("new", "accept")}	}}
	chain count {{
		ct status & dnat == 0 accept
		ct direction reply goto count_back
{_counting("to", "accept")}	}}
	chain count_back {{
{_counting("from", "accept")}	}}
	chain count_prerouting {{
		type filter hook prerouting priority -90; policy accept;
		iifname "lo" accept
		jump count
	}}
	chain count_output {{
		type filter hook output priority -90; policy accept;
		jump count
	}}
"""


def render_table(inside: Sequence[IPNetwork]) -> str:
    """One transaction that puts the table, empty, in the place of any older one."""
    sets = []
    for kind, family in product(("services", "inside"), (4, 6)):
        sets.append(
            f"\tmap {kind}{family} {{ type {_ADDRESS[family]} . inet_proto . inet_service : verdict; }}\n"
        )
        sets.append(f"\tmap {kind}_node{family} {{ type inet_proto . inet_service : verdict; }}\n")
    for protocol, family, node in _KINDS:
        ip = _IP[family]
        key = f"{'' if node else f'{ip} daddr . '}{protocol} dport . numgen inc mod {2 * _INSIDE_FIRST - 1}"
        kind = f"typeof {key} : {ip} daddr . {protocol} dport"
        sets.append(f"\tmap turns_{protocol}{family}{node} {{ {kind}; }}\n")
    for what, (protocol, family, node) in product(_COUNTED, _KINDS):
        sets.append(f"\tset {what}_{protocol}{family}{node} {{ type {_key(family, node)}; counter; }}\n")
    for family in (4, 6):
        networks = ", ".join(str(network) for network in inside if network.version == family)
        filled = f" elements = {{ {networks} }};" if networks else ""
        sets.append(
            f"\tset pods{family} {{ type {_ADDRESS[family]}; flags interval; auto-merge;{filled} }}\n"
        )
    return f"add table {_TABLE}\ndelete table {_TABLE}\ntable {_TABLE} {{\n{''.join(sets)}{_CHAINS}}}\n"


class _Leg(NamedTuple):
    """A way through a chain: clients of one address, to endpoints in turn."""

    vip: Vip
    inside: bool
    """Only for clients on this node and in its Pods, who have other endpoints than those from outside."""
    backends: tuple[Backend, ...]
    affinity_timeout_s: int | None

    @property
    def key(self) -> "_LegKey":
        """What stays the same while endpoints come and go."""
        return self.vip, self.inside, self.affinity_timeout_s


_LegKey = tuple[Vip, bool, int | None]
_Dispatch = dict[tuple[str, str], str]
"""Map and key, to the chain."""


class _Counter(NamedTuple):
    """One element of the sets that count."""

    suffix: str
    """Of the sets' names: `tcp4`, `udp6_node`."""
    key: str


@dataclass(slots=True)
class _Programmed:
    """A Service port in the kernel."""

    dispatch: _Dispatch = field(default_factory=dict)
    legs: dict[_LegKey, tuple[str, _Leg]] = field(default_factory=dict)
    """With their chains."""
    counters: dict[_Counter, Backend] = field(default_factory=dict)
    """Kept while connections to a removed endpoint go on."""
    taken_back: bool = False

    def unused(self) -> set[Backend]:
        """Endpoints that nobody is led to any more, and that are counted still."""
        return {*self.counters.values()} - {one for _, leg in self.legs.values() for one in leg.backends}


class NftablesHandoff:
    """A Mechanism."""

    name = "nftables"

    def __init__(self, conntrack: Conntrack) -> None:
        self._nft = Nft()
        self._conntrack = conntrack
        self._ports: dict[ServicePortName, _Programmed] = {}
        self._next = 0

    def refusal(self, port: KernelPort) -> str | None:
        """Anything that `plan.kernel_port` lets through."""
        return "an IPVS scheduler is asked for" if port.scheduler != "rr" else None

    async def begin(self, inside: Sequence[IPNetwork]) -> None:
        """Put an empty table in the place of any older one."""
        await self._nft.execute(render_table(inside))
        self._ports.clear()

    async def put(self, ports: Sequence[KernelPort]) -> None:
        """One transaction for all of them."""
        commands, after = _Commands(), {}
        for port in ports:
            before = self._ports.get(port.name, _Programmed())
            after[port.name] = self._renew(commands, before, port)
        await self._nft.execute(commands.text())
        self._ports.update(after)

    def _renew(self, commands: "_Commands", before: _Programmed, port: KernelPort) -> _Programmed:
        now = _Programmed(counters=dict(before.counters))
        for leg, kinds in _legs(port):
            chain, old = before.legs.get(leg.key) or (self._new_name(), None)
            commands.chain(chain, leg, old)
            now.legs[leg.key] = chain, leg
            now.dispatch.update((_dispatch(kind, leg.vip), chain) for kind in kinds)
            for backend in leg.backends:
                counter = _counter(leg.vip, backend)
                if counter not in now.counters:
                    now.counters[counter] = backend
                    commands.count(counter, "add")
        commands.lead(before.dispatch, now.dispatch)
        for key in before.legs.keys() - now.legs.keys():
            commands.remove(*before.legs[key])
        return now

    def _new_name(self) -> str:
        self._next += 1
        return f"s{self._next}"

    async def take(self, names: Collection[ServicePortName]) -> None:
        """One transaction: their addresses go; connections keep their translation without any rule."""
        commands, after = _Commands(), {}
        for name in names:
            before = self._ports.get(name)
            if before is None or before.taken_back:
                continue
            commands.lead(before.dispatch, {})
            for chain, leg in before.legs.values():
                commands.remove(chain, leg)
            after[name] = _Programmed(counters=before.counters, taken_back=True)
        if after:
            await self._nft.execute(commands.text())
            self._ports.update(after)

    async def drop_flows(self, usable: Mapping[ServicePortName, Collection[Backend]]) -> None:
        """Have conntrack forget them."""
        gone = {
            counter
            for name, backends in usable.items()
            for counter, backend in self._ports.get(name, _Programmed()).counters.items()
            if backend not in backends
        }
        if gone:
            await self._conntrack.forget(lambda flow: any(counter in gone for counter in _counters(flow)))

    async def tend(self) -> Collection[tuple[ServicePortName, Backend]]:
        """Count no longer for endpoints that nobody is led to, once their last connection has ended."""
        unused = {name: its.unused() for name, its in self._ports.items() if its.taken_back or its.unused()}
        if not unused:
            return ()
        busy, commands = await self._open_by_counter(), _Commands()
        for name, backends in unused.items():
            counters = self._ports[name].counters
            backends -= {backend for counter, backend in counters.items() if busy.get(counter)}
            for counter in [counter for counter, backend in counters.items() if backend in backends]:
                commands.count(counter, "delete")
        await self._nft.execute(commands.text())
        for name, backends in unused.items():
            its = self._ports[name]
            its.counters = {counter: one for counter, one in its.counters.items() if one not in backends}
            if its.taken_back and not its.counters:
                del self._ports[name]
        return [(name, backend) for name, backends in unused.items() for backend in backends]

    async def counts(self) -> Mapping[tuple[ServicePortName, Backend], Counts]:
        """Read all sets that have an element."""
        owners = {
            counter: (name, backend)
            for name, its in self._ports.items()
            for counter, backend in its.counters.items()
        }
        found = {key: [0, 0, 0] for key in owners.values()}
        for suffix in {counter.suffix for counter in owners}:
            for index, what in enumerate(_COUNTED):
                for key, packets, size in await self._elements(f"{what}_{suffix}"):
                    owner = owners.get(_Counter(suffix, key))
                    if owner is not None:
                        found[owner][index] += packets if index == 0 else _payload(suffix, packets, size)
        return {key: _counts(key[0].protocol, *values) for key, values in found.items()}

    async def _elements(self, name: str) -> Iterator[tuple[str, int, int]]:
        text = await self._nft.execute(f"list set {_TABLE} {name}\n")
        found = await asyncio.to_thread(_ELEMENT.findall, text)
        return ((key.strip(), int(packets), int(size)) for key, packets, size in found)

    async def open_connections(self) -> Mapping[ServicePortName, int]:
        """Connections that conntrack knows to lead to their endpoints."""
        if not self._ports:
            return {}
        found = await self._open_by_counter()
        return {
            name: sum(found.get(counter, 0) for counter in its.counters) for name, its in self._ports.items()
        }

    async def _open_by_counter(self) -> Mapping["_Counter", int]:
        known = {counter for its in self._ports.values() for counter in its.counters}
        found: CounterOf[_Counter] = CounterOf()
        for flow, count in (await self._conntrack.open_connections()).items():
            for counter in _counters(flow):
                if counter in known:
                    found[counter] += count
                    break
        return found

    async def close(self) -> None:
        """Remove the table, of earlier runs too."""
        await remove()
        self._ports.clear()


class _Commands:
    """The lines of one transaction. References have to go before what they refer to, and elements of one set
    are one line: each line costs the library a look at all sets."""

    def __init__(self) -> None:
        self._chains: list[str] = []
        self._elements: dict[tuple[str, str], list[str]] = {}
        self._rules: list[str] = []
        self._dispatch: dict[tuple[str, str], list[str]] = {}
        self._last: list[str] = []

    def text(self) -> str:
        """All of it, deletions of elements first: one that changes is both."""
        lines = [*self._chains, *_joined(self._elements), *self._rules, *_joined(self._dispatch), *self._last]
        return "".join(f"{line}\n" for line in lines)

    def count(self, counter: _Counter, verb: str) -> None:
        """Begin to count, or end it."""
        for what in _COUNTED:
            self._elements.setdefault((verb, f"{what}_{counter.suffix}"), []).append(counter.key)

    def lead(self, before: _Dispatch, now: _Dispatch) -> None:
        """Addresses that lead elsewhere now. One that moves is never without a chain."""
        for (name, key), chain in before.items():
            if now.get((name, key)) != chain:
                self._dispatch.setdefault(("delete", name), []).append(key)
        for (name, key), chain in now.items():
            if before.get((name, key)) != chain:
                self._dispatch.setdefault(("add", name), []).append(f"{key} : goto {chain}")

    def chain(self, chain: str, leg: _Leg, before: _Leg | None) -> None:
        """Bring a chain and what it needs in line with its leg."""
        if leg == before:
            return
        if before is None:
            self._chains.append(f"add chain {_TABLE} {chain}")
        if leg.affinity_timeout_s is not None:
            self._sticky(chain, leg, before)
            return
        old, now = before.backends if before is not None else (), leg.backends
        kept = {turn for turn, (one, other) in enumerate(zip(old, now, strict=False)) if one == other}
        self._turns(leg, "delete", ((turn, one) for turn, one in enumerate(old) if turn not in kept))
        self._turns(leg, "add", ((turn, one) for turn, one in enumerate(now) if turn not in kept))
        if len(old) != len(now):
            self._rules += [f"flush chain {_TABLE} {chain}", f"add rule {_TABLE} {chain} {_rule(leg)}"]

    def _turns(self, leg: _Leg, verb: str, turns: Iterable[tuple[int, Backend]]) -> None:
        """Elements of the map that all legs share."""
        address, first = (
            "" if leg.vip.is_node_port else f"{leg.vip.ip} . ",
            _INSIDE_FIRST if leg.inside else 0,
        )
        found = [
            f"{address}{leg.vip.port} . {first + turn} : {backend.ip} . {backend.port}"
            for turn, backend in turns
        ]
        if found:
            self._elements.setdefault((verb, f"turns_{_suffix(leg.vip)}"), []).extend(found)

    def _sticky(self, chain: str, leg: _Leg, before: _Leg | None) -> None:
        """Each endpoint remembers its clients; who is remembered goes there, and is remembered anew."""
        family, protocol = leg.vip.family, leg.vip.protocol.lower()
        ip, old = _IP[family], before.backends if before is not None else ()
        if before is not None:
            self._rules.append(f"flush chain {_TABLE} {chain}")
        names = [_sticky_name(chain, backend) for backend in leg.backends]
        for backend, name in zip(leg.backends, names, strict=True):
            if backend not in old:
                self._rules += [
                    f"add set {_TABLE} {name} {{ type {_ADDRESS[family]}; flags dynamic,timeout; "
                    f"timeout {leg.affinity_timeout_s}s; size {_CLIENTS_MAX}; }}",
                    f"add chain {_TABLE} {name}",
                    f"add rule {_TABLE} {name} update @{name} {{ {ip} saddr }}",
                    f"add rule {_TABLE} {name} meta l4proto {protocol} "
                    f"dnat {ip} to {_target(family, backend)}",
                ]
            self._rules.append(f"add rule {_TABLE} {chain} {ip} saddr @{name} goto {name}")
        turns = ", ".join(f"{turn} : goto {name}" for turn, name in enumerate(names))
        self._rules.append(f"add rule {_TABLE} {chain} numgen inc mod {len(names)} vmap {{ {turns} }}")
        self._forget(chain, [backend for backend in old if backend not in leg.backends])

    def remove(self, chain: str, leg: _Leg) -> None:
        """A chain that nothing leads to any more."""
        self._last += [f"flush chain {_TABLE} {chain}", f"delete chain {_TABLE} {chain}"]
        if leg.affinity_timeout_s is None:
            self._turns(leg, "delete", enumerate(leg.backends))
        else:
            self._forget(chain, leg.backends)

    def _forget(self, chain: str, backends: Iterable[Backend]) -> None:
        for name in (_sticky_name(chain, backend) for backend in backends):
            self._last += [
                f"flush chain {_TABLE} {name}",
                f"delete chain {_TABLE} {name}",
                f"delete set {_TABLE} {name}",
            ]


def _joined(elements: Mapping[tuple[str, str], Sequence[str]]) -> list[str]:
    return [
        f"{verb} element {_TABLE} {name} {{ {', '.join(some)} }}"
        for (verb, name), some in sorted(elements.items(), key=lambda one: one[0][0] != "delete")
    ]


def _legs(port: KernelPort) -> Iterator[tuple[_Leg, tuple[str, ...]]]:
    """The ways that a Service port needs, with the maps that lead there."""
    for its in port.vips:
        if its.backends == its.inside:
            yield _Leg(its.vip, False, its.inside, port.affinity_timeout_s), ("services", "inside")
            continue
        if its.backends:
            yield _Leg(its.vip, False, its.backends, port.affinity_timeout_s), ("services",)
        if its.inside:
            yield _Leg(its.vip, True, its.inside, port.affinity_timeout_s), ("inside",)


def _rule(leg: _Leg) -> str:
    protocol, ip = leg.vip.protocol.lower(), _IP[leg.vip.family]
    address = "" if leg.vip.is_node_port else f"{ip} daddr . "
    turn = f"numgen inc mod {len(leg.backends)} offset {_INSIDE_FIRST if leg.inside else 0}"
    key = f"{address}{protocol} dport . {turn}"
    return f"meta l4proto {protocol} dnat {ip} to {key} map @turns_{_suffix(leg.vip)}"


def _suffix(vip: Vip) -> str:
    """What the names of the sets end with that know a VIP."""
    return f"{vip.protocol.lower()}{vip.family}{'_node' if vip.is_node_port else ''}"


def _dispatch(kind: str, vip: Vip) -> tuple[str, str]:
    protocol = vip.protocol.lower()
    if vip.is_node_port:
        return f"{kind}_node{vip.family}", f"{protocol} . {vip.port}"
    return f"{kind}{vip.family}", f"{vip.ip} . {protocol} . {vip.port}"


def _counter(vip: Vip, backend: Backend) -> _Counter:
    address = "" if vip.is_node_port else f"{vip.ip} . "
    return _Counter(_suffix(vip), f"{address}{vip.port} . {backend.ip} . {backend.port}")


def _counters(flow: Translated) -> tuple[_Counter, _Counter]:
    """The two that may count a connection: by its address, or as a NodePort's."""
    at, anywhere = (Vip(ip, flow.port, flow.protocol) for ip in (flow.ip, _ANY[flow.ip.version]))
    return _counter(at, flow.backend), _counter(anywhere, flow.backend)


def _target(family: int, backend: Backend) -> str:
    return f"{backend.ip}:{backend.port}" if family == 4 else f"[{backend.ip}]:{backend.port}"


def _sticky_name(chain: str, backend: Backend) -> str:
    """Names may have letters, digits, `_`, `.`, `/` and `\\`; no colon."""
    return f"{chain}_{str(backend.ip).replace(':', '.')}_{backend.port}"


def _counts(protocol: Protocol, connections: int, to_backend: int, to_client: int) -> Counts:
    more = connections * _SYN_MORE if protocol is Protocol.TCP else 0
    return Counts(connections, max(0, to_backend - more), max(0, to_client - more))


def _payload(suffix: str, packets: int, size: int) -> int:
    headers = _HEADERS[int(suffix[3]), suffix[:3]]
    return max(0, size - packets * headers)


async def refusal_here() -> str | None:
    """Why this machine cannot do it; None when it can. Leaves nothing behind."""
    for family, path in ((4, "/proc/sys/net/ipv4/ip_forward"),):
        try:
            with open(path) as file:  # noqa: ASYNC230, PTH123 - a line of /proc
                if file.read().strip() == "0":
                    return f"IPv{family} packets are not forwarded (net.ipv4.ip_forward is 0)"
        except OSError as error:
            return f"{path}: {error.strerror}"
    trial = "inet uproxy-trial"
    text = render_table(()).replace(_TABLE, trial)
    try:
        await Nft().execute(f"{text}delete table {trial}\n")
    except CommandFailed as error:
        return str(error)
    return None


async def remove() -> list[str]:
    """Remove the table of any run; returns what was there, in words. Raises CommandFailed."""
    nft = Nft()
    try:
        tables = await nft.execute("list tables\n")
    except CommandFailed:
        return []  # A kernel without nftables, or a machine without its programs.
    if f"table {_TABLE}" not in tables.splitlines():
        return []
    await nft.execute(f"delete table {_TABLE}\n")
    return [f"nftables table {_TABLE}"]
