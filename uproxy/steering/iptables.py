"""Rules as ipsets, and a constant number of iptables rules that match them.

Owns chains and sets whose names begin with UPROXY-, and the jumps to them; refuses to touch
anything else. For machines without a usable nft, and beside owners that speak iptables only.

Not atomic as a whole, which ipset and iptables cannot be, but without a gap: a set is
replaced by `swap`, a table by one `iptables-restore` (one commit), and in a change elements
are added before others are deleted. So a VIP whose verdict flips is in both sets for a moment,
and never in none. Sources: ipset(8), iptables-extensions(8), iptables-restore(8).
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from uproxy.errors import CommandFailed
from uproxy.kit.netfilter import (
    PROGRAM,
    PROXY_MARK,
    census,
    jumps_gone,
    lost_rules,
    remove_chains,
    restore,
    set_sizes,
)
from uproxy.kit.programs import execute, peek
from uproxy.model.names import Family, IPAddress, IPNetwork, Protocol, Vip
from uproxy.steering.landing import LANDING
from uproxy.steering.rules import RedirectPorts, Rule, RuleDelta, Verdict, alone

_PREFIX = "UPROXY-"
_FAMILIES: tuple[Family, ...] = (4, 6)

# The kernel lets go of a removed rule's sets a moment after the rule (nf_tables frees it from
# a work queue), and until then calls them in use.
_DESTROY_TRIES, _DESTROY_PAUSE_S = 10, 0.05

_VIP_SETS = ("UPROXY-VIP", "UPROXY-REJECT", "UPROXY-DROP", "UPROXY-SERVED", "UPROXY-INSIDE", "UPROXY-LIMITED")
_PORT_SETS = (
    "UPROXY-NODE",
    "UPROXY-REJECT-NODE-TCP",
    "UPROXY-REJECT-NODE-UDP",
    "UPROXY-INSIDE-NODE-TCP",
    "UPROXY-INSIDE-NODE-UDP",
)
_VIP_SET_OF = {Verdict.REDIRECT: "UPROXY-VIP", Verdict.REJECT: "UPROXY-REJECT", Verdict.DROP: "UPROXY-DROP"}
_INCOMING = "-TMP"
"""Ends the name of a set while it is filled, before it is swapped with the one in use."""

_JUMPS = {
    "mangle": {
        "PREROUTING": "-m conntrack --ctstate NEW -j UPROXY-GUARD-IN",
        "OUTPUT": "-m conntrack --ctstate NEW -j UPROXY-GUARD-OUT",
    },
    "nat": {"PREROUTING": "-j UPROXY-CAPTURE", "OUTPUT": "-j UPROXY-CAPTURE"},
    "filter": {
        "INPUT": "-j UPROXY-INPUT",
        "FORWARD": "-j UPROXY-UNSERVED",
        "OUTPUT": "! -o lo -j UPROXY-UNSERVED",
    },
}

# The reasons for this shape are beside the nftables rules, which are the same.
_RULES = {
    "mangle": """\
-A UPROXY-GUARD-IN ! -i lo -j UPROXY-OUTSIDE
-A UPROXY-GUARD-IN -j UPROXY-GUARD
-A UPROXY-GUARD-OUT -m mark --mark {mark:#x} -j RETURN
-A UPROXY-GUARD-OUT -p udp -o lo -j RETURN
-A UPROXY-GUARD-OUT -m set --match-set UPROXY-DROP{family} dst,dst -j DROP
-A UPROXY-GUARD-OUT -j UPROXY-GUARD
-A UPROXY-GUARD -m set --match-set UPROXY-LIMITED{family} dst,dst \
-m set ! --match-set UPROXY-ALLOWED{family} dst,dst,src -j DROP
-A UPROXY-OUTSIDE -m set --match-set UPROXY-PODS{family} src -j RETURN
-A UPROXY-OUTSIDE -m set --match-set UPROXY-INSIDE{family} dst,dst -j DROP
-A UPROXY-OUTSIDE -p tcp -m set --match-set UPROXY-INSIDE-NODE-TCP{family} dst \
-m addrtype --dst-type LOCAL -j DROP
-A UPROXY-OUTSIDE -p udp -m set --match-set UPROXY-INSIDE-NODE-UDP{family} dst \
-m addrtype --dst-type LOCAL -j DROP
""",
    "nat": """\
-A UPROXY-CAPTURE -m mark --mark {mark:#x} -j RETURN
-A UPROXY-CAPTURE -p tcp -m set --match-set UPROXY-VIP{family} dst,dst -j DNAT --to-destination {to}
-A UPROXY-CAPTURE -m set --match-set UPROXY-ALONE{family} dst -j RETURN
-A UPROXY-CAPTURE -d {landing} -j RETURN
-A UPROXY-CAPTURE -p tcp ! -d {loopback} -m set --match-set UPROXY-NODE{family} dst \
-m addrtype --dst-type LOCAL -j DNAT --to-destination {to}
""",
    "filter": """\
-A UPROXY-INPUT -p tcp --dport {port} -m conntrack ! --ctstate DNAT -j UPROXY-REFUSE
-A UPROXY-INPUT -d {landing} -m conntrack --ctstate NEW -m conntrack ! --ctstate DNAT -j UPROXY-REFUSE
-A UPROXY-INPUT -j UPROXY-UNSERVED
-A UPROXY-UNSERVED -m mark --mark {mark:#x} -j RETURN
-A UPROXY-UNSERVED -m set --match-set UPROXY-REJECT{family} dst,dst -j UPROXY-REFUSE
-A UPROXY-UNSERVED -m set --match-set UPROXY-DROP{family} dst,dst -j DROP
-A UPROXY-UNSERVED -p tcp ! -d {loopback} -m conntrack --ctdir ORIGINAL \
-m set --match-set UPROXY-REJECT-NODE-TCP{family} dst -m addrtype --dst-type LOCAL -j UPROXY-REFUSE
-A UPROXY-UNSERVED -p udp ! -d {loopback} -m conntrack --ctdir ORIGINAL \
-m set --match-set UPROXY-REJECT-NODE-UDP{family} dst -m addrtype --dst-type LOCAL -j UPROXY-REFUSE
-A UPROXY-UNSERVED -p tcp -m conntrack --ctstate NEW -m set --match-set UPROXY-ALONE{family} dst \
-m set ! --match-set UPROXY-SERVED{family} dst,dst -j UPROXY-REFUSE
-A UPROXY-UNSERVED -p udp -m conntrack --ctstate NEW -m set --match-set UPROXY-ALONE{family} dst \
-m set ! --match-set UPROXY-SERVED{family} dst,dst -j UPROXY-REFUSE
-A UPROXY-REFUSE -p tcp -j REJECT --reject-with tcp-reset
-A UPROXY-REFUSE -j REJECT --reject-with {unreachable}
""",
}
_CHAINS = {
    "mangle": ("UPROXY-GUARD-IN", "UPROXY-GUARD-OUT", "UPROXY-GUARD", "UPROXY-OUTSIDE"),
    "nat": ("UPROXY-CAPTURE",),
    "filter": ("UPROXY-INPUT", "UPROXY-UNSERVED", "UPROXY-REFUSE"),
}


def render_sets(rules: Mapping[Vip, Rule], inside: Iterable[IPNetwork], families: Iterable[Family]) -> str:
    """Input for `ipset restore`: every set of `families`, with exactly these elements."""
    families = tuple(families)
    pods = {(f"UPROXY-PODS{network.version}", str(network)) for network in inside}
    found = {*_elements(rules), *_alone(alone(rules)), *pods}
    elements = sorted(element for element in found if int(element[0][-1]) in families)
    lines: list[str] = []
    incoming: list[str] = []
    for family in families:
        for name, kind in _set_kinds(family).items():
            lines += [
                f"create -exist {name} {kind}",
                f"create -exist {name}{_INCOMING} {kind}",
                f"flush {name}{_INCOMING}",
            ]
            incoming.append(name)
    lines += [f"add -exist {name}{_INCOMING} {element}" for name, element in elements]
    lines += [f"swap {name}{_INCOMING} {name}" for name in incoming]
    lines += [f"destroy {name}{_INCOMING}" for name in incoming]
    return _text(lines)


def render_set_delta(delta: RuleDelta) -> str:
    """Input for `ipset restore`: additions first, so that nothing wanted is ever missing."""
    after = {*_elements(delta.add), *_alone(delta.add_alone)}
    before = {*_elements(delta.remove), *_alone(delta.remove_alone)}
    added = [f"add -exist {name} {element}" for name, element in sorted(after - before)]
    removed = [f"del -exist {name} {element}" for name, element in sorted(before - after)]
    return _text(added + removed)


def render_rules(family: Family, ports: RedirectPorts, saved: str) -> str:
    """Input for `iptables-restore --noflush`: chains and jumps, in the place of older ones.

    `saved` is what `iptables-save` prints now; jumps of ours that it has are not doubled.
    """
    landing, port = LANDING[family], ports.of(family)
    addresses = f"{landing.first}-{landing.last}"
    words = {
        "mark": PROXY_MARK,
        "family": family,
        "port": port,
        "landing": landing.network,
        "to": f"{addresses}:{port}" if family == 4 else f"[{addresses}]:{port}",
        "loopback": "127.0.0.0/8" if family == 4 else "::1/128",
        "unreachable": "icmp-port-unreachable" if family == 4 else "icmp6-port-unreachable",
    }
    lines: list[str] = []
    for table, rules in _RULES.items():
        lines += [f"*{table}"]
        lines += [f":{chain} - [0:0]" for chain in _CHAINS[table]]
        lines += jumps_gone(saved, table, _PREFIX)
        lines += [f"-I {hook} 1 {jump}" for hook, jump in _JUMPS[table].items()]
        lines += [*rules.format(**words).splitlines(), "COMMIT"]
    return _text(lines)


def _set_kinds(family: Family) -> dict[str, str]:
    # 65,536 elements are ipset's default limit, fewer than a large cluster has addresses.
    room = f"family {'inet' if family == 4 else 'inet6'} maxelem 1048576"
    kinds = {f"{name}{family}": f"hash:ip,port {room}" for name in _VIP_SETS}
    kinds |= {
        f"UPROXY-ALLOWED{family}": f"hash:ip,port,net {room}",
        f"UPROXY-PODS{family}": f"hash:net {room}",
        f"UPROXY-ALONE{family}": f"hash:ip {room}",
    }
    return kinds | {f"{name}{family}": "bitmap:port range 0-65535" for name in _PORT_SETS}


def _elements(rules: Mapping[Vip, Rule]) -> Iterator[tuple[str, str]]:
    """Sets, and what is in them."""
    for vip, rule in rules.items():
        if vip.is_node_port:
            yield from _node_port_elements(vip, rule)
            continue
        key, family = f"{vip.ip},{vip.protocol.lower()}:{vip.port}", vip.family
        if rule.verdict is not None:
            yield f"{_VIP_SET_OF[rule.verdict]}{family}", key
        elif rule.alone:
            yield f"UPROXY-SERVED{family}", key
        if rule.inside_only:
            yield f"UPROXY-INSIDE{family}", key
        if rule.allowed:
            yield f"UPROXY-LIMITED{family}", key
        for network in rule.allowed:
            yield f"UPROXY-ALLOWED{family}", f"{key},{network}"


def _alone(ips: Iterable[IPAddress]) -> Iterator[tuple[str, str]]:
    return ((f"UPROXY-ALONE{ip.version}", str(ip)) for ip in ips)


def _node_port_elements(vip: Vip, rule: Rule) -> Iterator[tuple[str, str]]:
    protocol = Protocol.UDP if vip.protocol is Protocol.UDP else Protocol.TCP
    if rule.verdict is Verdict.REDIRECT:
        yield f"UPROXY-NODE{vip.family}", str(vip.port)
    if rule.verdict is Verdict.REJECT:
        yield f"UPROXY-REJECT-NODE-{protocol}{vip.family}", str(vip.port)
    if rule.inside_only:
        yield f"UPROXY-INSIDE-NODE-{protocol}{vip.family}", str(vip.port)


def _text(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _sizes(rules: Mapping[Vip, Rule], inside: Iterable[IPNetwork]) -> Counter[str]:
    """How many elements each set has."""
    pods = {(f"{_PREFIX}PODS{network.version}", str(network)) for network in inside}
    return Counter(name for name, _ in {*_elements(rules), *_alone(alone(rules)), *pods})


class IptablesRules:
    """The UPROXY- chains and sets of this network namespace."""

    def __init__(self, ports: RedirectPorts) -> None:
        self.problems: Mapping[Family, str] = {}
        """Families that are not served here, with the reason: IPv6, where ip6tables fails."""
        self._ports = ports

    async def replace(self, rules: Mapping[Vip, Rule], inside: Sequence[IPNetwork]) -> None:
        """Program exactly `rules`, in the place of whatever an earlier run left.

        Raises CommandFailed. A machine whose ip6tables cannot be used is no failure: it is
        told by `problems`.
        """
        saved = {4: await execute("iptables-save")}
        self.problems = {}
        try:
            saved[6] = await execute("ip6tables-save")
        except CommandFailed as error:
            self.problems = {6: str(error)}
        await execute("ipset", "restore", stdin=render_sets(self._served(rules), inside, self._families()))
        await self._restore(4, saved[4])
        if 6 in saved:
            await self._restore_ipv6(saved[6])

    async def apply(self, delta: RuleDelta) -> None:
        """Program a change. Raises CommandFailed; part of the change may then be in effect."""
        served = RuleDelta(
            self._served(delta.add),
            self._served(delta.remove),
            frozenset(ip for ip in delta.add_alone if ip.version not in self.problems),
            frozenset(ip for ip in delta.remove_alone if ip.version not in self.problems),
        )
        if served:
            await execute("ipset", "restore", stdin=render_set_delta(served))

    async def lost(self, rules: Mapping[Vip, Rule], inside: Sequence[IPNetwork]) -> str | None:
        """By how many rules our chains and elements our sets have."""
        families, there = self._families(), await set_sizes()
        wanted = await asyncio.to_thread(_sizes, self._served(rules), inside)
        for name in (name for family in families for name in _set_kinds(family)):
            if there.get(name, -1) < wanted[name]:
                return f"ipset {name} lacks elements"
        for family in families:
            rules_of = census(render_rules(family, self._ports, ""), _PREFIX)
            if found := await lost_rules(family, rules_of, _PREFIX):
                return found
        return None

    async def remove(self) -> list[str]:
        """Remove chains, jumps and sets; see `remove`."""
        return await remove()

    def _families(self) -> list[Family]:
        return [family for family in _FAMILIES if family not in self.problems]

    def _served(self, rules: Mapping[Vip, Rule]) -> Mapping[Vip, Rule]:
        return {vip: rule for vip, rule in rules.items() if vip.family not in self.problems}

    async def _restore(self, family: Family, saved: str) -> None:
        rules = render_rules(family, self._ports, saved)
        await restore(family, rules)

    async def _restore_ipv6(self, saved: str) -> None:
        try:
            await self._restore(6, saved)
        except CommandFailed as error:
            self.problems = {6: str(error)}


async def is_left() -> bool:
    """Whether any run has left sets, which rules may match."""
    return _PREFIX in await peek("ipset", "list", "-name")


async def remove() -> list[str]:
    """Remove chains, jumps and sets of any run; returns what was there, in words.

    Raises CommandFailed when something is there that cannot be removed.
    """
    removed: list[str] = []
    for family in _FAMILIES:
        saved = await peek(f"{PROGRAM[family]}-save")
        removed += await remove_chains(family, saved, tuple(_RULES), _PREFIX)
    for name in (await peek("ipset", "list", "-name")).split():
        if name.startswith(_PREFIX):
            await _destroy(name)
            removed.append(f"ipset {name}")
    return removed


async def _destroy(name: str) -> None:
    """Destroy a set. Raises CommandFailed when something still refers to it."""
    for _ in range(_DESTROY_TRIES):
        try:
            await execute("ipset", "destroy", name)
            return
        except CommandFailed:
            await asyncio.sleep(_DESTROY_PAUSE_S)
    await execute("ipset", "destroy", name)
