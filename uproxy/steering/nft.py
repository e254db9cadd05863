"""Rules as one nftables table, `inet uproxy`: a constant number of sets, chains and statements.

Owns that table and nothing outside it. Each call is one transaction, which the kernel takes
whole or not at all, so packets never meet half a change (nft(8), libnftables(3)).
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing

from uproxy.errors import CommandFailed
from uproxy.kernel.nft_sight import NftSight, lacking
from uproxy.kit.netfilter import PROXY_MARK
from uproxy.kit.nft import Nft
from uproxy.model.names import Family, IPAddress, IPNetwork, Vip
from uproxy.steering.landing import LANDING
from uproxy.steering.rules import RedirectPorts, Rule, RuleDelta, Verdict, alone

_TABLE = "inet uproxy"

_SETS = {
    "redirect4": "ipv4_addr . inet_service",
    "redirect6": "ipv6_addr . inet_service",
    "redirect_nodeports4": "inet_service",
    "redirect_nodeports6": "inet_service",
    "reject4": "ipv4_addr . inet_proto . inet_service",
    "reject6": "ipv6_addr . inet_proto . inet_service",
    "reject_nodeports4": "inet_proto . inet_service",
    "reject_nodeports6": "inet_proto . inet_service",
    "served4": "ipv4_addr . inet_proto . inet_service",
    "served6": "ipv6_addr . inet_proto . inet_service",
    "alone4": "ipv4_addr",
    "alone6": "ipv6_addr",
    "drop4": "ipv4_addr . inet_proto . inet_service",
    "drop6": "ipv6_addr . inet_proto . inet_service",
    "inside4": "ipv4_addr . inet_proto . inet_service",
    "inside6": "ipv6_addr . inet_proto . inet_service",
    "inside_nodeports4": "inet_proto . inet_service",
    "inside_nodeports6": "inet_proto . inet_service",
    "limited4": "ipv4_addr . inet_proto . inet_service",
    "limited6": "ipv6_addr . inet_proto . inet_service",
    "allowed4": "ipv4_addr . inet_proto . inet_service . ipv4_addr; flags interval",
    "allowed6": "ipv6_addr . inet_proto . inet_service . ipv6_addr; flags interval",
    "pods4": "ipv4_addr; flags interval; auto-merge",
    "pods6": "ipv6_addr; flags interval; auto-merge",
}

# Why it is so:
# - Priority -105 is just before dstnat (-100), so that another owner of the address does not
#   translate it first; the name `dstnat` is not valid in an output hook (nft 1.0.6).
# - Connections are led to addresses that the node always has: `redirect` takes one of the link, and drops
#   the packet where that has none. Whoever names such an address himself is refused, as at a ClusterIP.
# - Refusal comes after NAT, everybody's (-99): what is translated is not asked any more, and who was
#   connected while there were endpoints stays so. First packets only are asked, as a chain of type nat is, so
#   that what is connected, to this node or through it, never pays. (`reject` there takes Linux 5.9.)
# - What comes by `lo` had its turn at translation on its way out, so there a filter asks; and each datagram,
#   since a flow outlives the socket that served it. Priority -10 puts it before the node's firewall, whose
#   DROP would turn `refused` into a timeout.
# - The guard of output comes before `mangle` (-150), where handoff by IPVS marks: the guard lets marks pass.
# - Of what comes by `lo`, too, what was translated is spared all these lookups.
# - Of an address that is a Service's alone, what is not translated and has no socket bound to it is refused.
#   Answers to the node's own connections come to it too, since it is their source: so only what is new.
# - Output to `lo` is left to the input hook: refused in output, a UDP sender would see EPERM.
# - `ct direction original` keeps replies to the node's own connections out of the NodePorts.
# - The address of a local route (AnyIP) is `local` to fib, as every address of the node is; but NodePorts
#   are not on the ClusterIPs.
# - Sets are looked up before fib, which costs more. A bare `reject` is port unreachable.
# - Who may come is asked before any translation, of new connections only: one that was let in lives on when
#   that changes. A chain of type nat sees nothing else, so what the kernel carries does not pay for it. What
#   the node itself sends is asked on its way out, as TCP is redirected there; but for UDP by `lo`, which is
#   asked when it comes in (a sender would see EPERM).
# - What the node itself sends and is to get no answer is dropped there too: once it is on `lo` conntrack
#   remembers that it was not redirected, and its next SYN would be refused, though it is served by then.
_CHAINS = """\
	chain capture {{
		meta mark {mark:#x} return
		ip daddr . tcp dport @redirect4 dnat ip to {to4}
		ip6 daddr . tcp dport @redirect6 dnat ip6 to {to6}
		ip daddr @alone4 return
		ip6 daddr @alone6 return
		ip daddr {landing4} return
		ip6 daddr {landing6} return
		ip daddr != 127.0.0.0/8 tcp dport @redirect_nodeports4 fib daddr type local dnat ip to {to4}
		ip6 daddr != ::1 tcp dport @redirect_nodeports6 fib daddr type local dnat ip6 to {to6}
	}}
	chain capture_prerouting {{
		type nat hook prerouting priority -105; policy accept;
		jump capture
	}}
	chain capture_output {{
		type nat hook output priority -105; policy accept;
		jump capture
	}}
	chain guard {{
		ip daddr . meta l4proto . th dport @limited4 \
ip daddr . meta l4proto . th dport . ip saddr != @allowed4 drop
		ip6 daddr . meta l4proto . th dport @limited6 \
ip6 daddr . meta l4proto . th dport . ip6 saddr != @allowed6 drop
	}}
	chain guard_prerouting {{
		type nat hook prerouting priority -110; policy accept;
		ip daddr . meta l4proto . th dport @inside4 iifname != "lo" ip saddr != @pods4 drop
		ip6 daddr . meta l4proto . th dport @inside6 iifname != "lo" ip6 saddr != @pods6 drop
		meta l4proto . th dport @inside_nodeports4 iifname != "lo" ip saddr != @pods4 \
fib daddr type local drop
		meta l4proto . th dport @inside_nodeports6 iifname != "lo" ip6 saddr != @pods6 \
fib daddr type local drop
		jump guard
	}}
	chain guard_output {{
		type filter hook output priority -151; policy accept;
		ct state != new accept
		meta mark {mark:#x} accept
		meta l4proto udp oifname "lo" accept
		ip daddr . meta l4proto . th dport @drop4 drop
		ip6 daddr . meta l4proto . th dport @drop6 drop
		jump guard
	}}
	chain refuse {{
		meta l4proto tcp reject with tcp reset
		reject
	}}
	chain unserved {{
		meta mark {mark:#x} return
		ip daddr . meta l4proto . th dport @reject4 goto refuse
		ip6 daddr . meta l4proto . th dport @reject6 goto refuse
		ip daddr . meta l4proto . th dport @drop4 drop
		ip6 daddr . meta l4proto . th dport @drop6 drop
		ct direction original ip daddr != 127.0.0.0/8 meta l4proto . th dport @reject_nodeports4 \
fib daddr type local goto refuse
		ct direction original ip6 daddr != ::1 meta l4proto . th dport @reject_nodeports6 \
fib daddr type local goto refuse
		ct state != new return
		ip daddr @alone4 ip daddr . meta l4proto . th dport != @served4 goto refuse
		ip6 daddr @alone6 ip6 daddr . meta l4proto . th dport != @served6 goto refuse
		ip daddr {landing4} goto refuse
		ip6 daddr {landing6} goto refuse
	}}
	chain refuse_prerouting {{
		type nat hook prerouting priority -99; policy accept;
		meta nfproto ipv4 tcp dport {ports.ipv4} fib daddr type local goto refuse
		meta nfproto ipv6 tcp dport {ports.ipv6} fib daddr type local goto refuse
		jump unserved
	}}
	chain refuse_input {{
		type filter hook input priority -10; policy accept;
		iifname != "lo" meta l4proto != udp accept
		ct status dnat accept
		ct state new jump guard
		meta nfproto ipv4 tcp dport {ports.ipv4} goto refuse
		meta nfproto ipv6 tcp dport {ports.ipv6} goto refuse
		jump unserved
	}}
	chain refuse_output {{
		type nat hook output priority -99; policy accept;
		oifname != "lo" jump unserved
	}}
"""


def render_table(
    ports: RedirectPorts,
    rules: Mapping[Vip, Rule],
    inside: Sequence[IPNetwork],
    more_sets: dict[str, str] | None = None,
    more_chains: str = "",
) -> str:
    """One transaction that puts the complete table in the place of any older one.

    `more_sets` are further ones, by name and type, which `rules` fill too.
    """
    elements = _by_set({*_elements(rules), *_alone(alone(rules)), *_pods(inside)})
    kinds = _SETS | (more_sets or {})
    sets = "".join(_render_set(name, kind, elements.get(name, ())) for name, kind in kinds.items())
    chains = _CHAINS.format(mark=PROXY_MARK, ports=ports, **_landing(ports)) + more_chains
    # Deleting a table that is not there is an error; adding one that is there is not.
    return f"add table {_TABLE}\ndelete table {_TABLE}\ntable {_TABLE} {{\n{sets}{chains}}}\n"


def _landing(ports: RedirectPorts) -> Mapping[str, str]:
    """What the chains say of where connections land."""
    four, six = LANDING[4], LANDING[6]
    return {
        "landing4": str(four.network),
        "landing6": str(six.network),
        "to4": f"{four.first}-{four.last}:{ports.ipv4}",
        "to6": f"[{six.first}]-[{six.last}]:{ports.ipv6}",
    }


def render_delta(delta: RuleDelta) -> str:
    """One transaction that moves elements in and out of the sets."""
    added = {*_elements(delta.add), *_alone(delta.add_alone)}
    removed = {*_elements(delta.remove), *_alone(delta.remove_alone)}
    return "".join(
        f"{verb} element {_TABLE} {name} {{ {', '.join(elements)} }}\n"
        for verb, some in (("delete", removed - added), ("add", added - removed))
        for name, elements in _by_set(some).items()
    )


def _render_set(name: str, kind: str, elements: Iterable[str]) -> str:
    content = ", ".join(elements)
    filled = f" elements = {{ {content} }};" if content else ""
    return f"\tset {name} {{ type {kind};{filled} }}\n"


_Element = tuple[str, str]
"""A set's name, and what is in it."""


def _by_set(elements: Iterable[_Element]) -> dict[str, list[str]]:
    found = defaultdict(list)
    for name, element in sorted(elements):
        found[name].append(element)
    return found


def _elements(rules: Mapping[Vip, Rule]) -> Iterator[_Element]:
    for vip, rule in rules.items():
        family, kind = vip.family, "_nodeports" if vip.is_node_port else ""
        address = [] if vip.is_node_port else [str(vip.ip)]
        key = " . ".join((*address, vip.protocol.lower(), str(vip.port)))
        if rule.verdict is Verdict.REDIRECT:
            yield f"redirect{kind}{family}", " . ".join((*address, str(vip.port)))
        elif rule.verdict is not None:
            yield f"{rule.verdict}{kind}{family}", key
        elif rule.alone:
            yield f"served{family}", key
        if rule.inside_only:
            yield f"inside{kind}{family}", key
        if rule.allowed:
            yield f"limited{family}", key
        for network in rule.allowed:
            yield f"allowed{family}", f"{key} . {network}"


def _alone(ips: Iterable[IPAddress]) -> Iterator[_Element]:
    return ((f"alone{ip.version}", str(ip)) for ip in ips)


def _pods(inside: Iterable[IPNetwork]) -> Iterator[_Element]:
    return ((f"pods{network.version}", str(network)) for network in inside)


Render = Callable[[RedirectPorts, Mapping[Vip, Rule], Sequence[IPNetwork]], str]


class NftRules:
    """The table `inet uproxy` of this network namespace, as `render` writes it."""

    def __init__(self, ports: RedirectPorts, render: Render = render_table) -> None:
        self.problems: Mapping[Family, str] = {}
        """None: the kernel takes the table for both families, or not at all."""
        self._ports = ports
        self._render = render
        self._nft = Nft()
        self._seen: int | None = None
        """The generation in which all was there."""
        self._chains: Mapping[str, int] | None = None
        """What the table has had since it was made."""

    async def replace(self, rules: Mapping[Vip, Rule], inside: Sequence[IPNetwork]) -> None:
        """Program exactly `rules`, in the place of whatever an earlier run left.

        Raises CommandFailed when the kernel took none of it.
        """
        await self._nft.execute(self._render(self._ports, rules, inside))
        self._seen = self._chains = None

    async def apply(self, delta: RuleDelta) -> None:
        """Program a change. Raises CommandFailed when the kernel took none of it."""
        await self._nft.execute(render_delta(delta))

    async def lost(self, rules: Mapping[Vip, Rule], _inside: Sequence[IPNetwork]) -> str | None:
        """By the table's chains and how many elements its sets have. While nobody has changed any table of
        the machine, one question is all that it costs."""
        return await asyncio.to_thread(self._lost, rules)

    def _lost(self, rules: Mapping[Vip, Rule]) -> str | None:
        """Blocks."""
        with closing(NftSight(_TABLE.split()[1])) as sight:
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
        return await remove()


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
