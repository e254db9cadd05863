"""The constant part of the table `inet uproxy`: its sets, its chains, and their rules.

Owns which packets are asked what, and in which order. Refuses to know any VIP (`nft.py`). The same as text is
in tests/pure/steering/golden/table.nft.
"""

from collections.abc import Callable, Iterator

from uproxy.kernel import nft_expressions as packet
from uproxy.kernel.nft_expressions import Field
from uproxy.kernel.nft_nat import Dnat
from uproxy.kernel.nft_statements import (
    ACCEPT,
    DROP,
    RETURN,
    TCP,
    InSet,
    Match,
    Reject,
    Statement,
    goto,
    jump,
)
from uproxy.kernel.nft_table import Chain, Hook, Rule, Set, rule
from uproxy.kernel.nft_types import ADDRESS, INET_PROTO, INET_SERVICE
from uproxy.kit.netfilter import PROXY_MARK
from uproxy.model.names import Family
from uproxy.steering.landing import LANDING
from uproxy.steering.rules import RedirectPorts

FAMILIES: tuple[Family, ...] = (4, 6)
Chains = tuple[Chain, ...]


def _sets() -> Iterator[Set]:
    """In pairs of families; a NodePort has no address."""
    node_port = (INET_PROTO, INET_SERVICE)
    for kind in ("redirect", "reject", "served", "alone", "drop", "inside", "limited", "allowed", "pods"):
        for family in FAMILIES:
            address = ADDRESS[family]
            name = f"{kind}{family}"
            match kind:
                case "redirect":
                    yield Set(name, (address, INET_SERVICE))
                case "alone":
                    yield Set(name, (address,))
                case "allowed":
                    yield Set(name, (address, *node_port, address), interval=True)
                case "pods":
                    yield Set(name, (address,), interval=True, auto_merge=True)
                case _:
                    yield Set(name, (address, *node_port))
        if kind in ("redirect", "reject", "inside"):
            key = (INET_SERVICE,) if kind == "redirect" else node_port
            yield from (Set(f"{kind}_nodeports{family}", key) for family in FAMILIES)


SETS = tuple(_sets())
DELIVER_SETS = tuple(
    Set(f"deliver{family}", (ADDRESS[family], INET_PROTO, INET_SERVICE)) for family in FAMILIES
)
"""What capture `tproxy` has besides."""


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
def vip_fields(family: Family) -> tuple[Field, ...]:
    """Where a packet goes, as sets of addresses, protocols and ports have it."""
    return packet.DADDR[family], packet.L4PROTO, packet.TH_DPORT


_NODE_PORT = (packet.L4PROTO, packet.TH_DPORT)
_OURS = Match(packet.MARK, PROXY_MARK)
_HERE = Match(packet.FIB_DADDR_TYPE, "local")
_NEW, _NOT_NEW = Match(packet.CT_STATE, "new"), Match(packet.CT_STATE, "new", negated=True)
_BY_LO, _NOT_BY_LO = Match(packet.IIFNAME, "lo"), Match(packet.IIFNAME, "lo", negated=True)
_NOT_LOOPBACK = {
    4: Match(packet.DADDR[4], "127.0.0.0/8", negated=True),
    6: Match(packet.DADDR[6], "::1", negated=True),
}


def _of_family(family: Family) -> Match:
    return Match(packet.NFPROTO, f"ipv{family}")


def _to_port(ports: RedirectPorts, family: Family) -> Statement:
    return Match(packet.TCP_DPORT, ports.of(family))


def _each(make: Callable[[Family], Rule]) -> tuple[Rule, ...]:
    return tuple(make(family) for family in FAMILIES)


def _to_listener(ports: RedirectPorts, family: Family) -> Dnat:
    its = LANDING[family]
    return Dnat(ports.of(family), its.first, its.last)


def _landing(family: Family) -> Match:
    return Match(packet.DADDR[family], str(LANDING[family].network))


def _capture(ports: RedirectPorts) -> Chain:
    def vips(family: Family) -> Rule:
        its = InSet((packet.DADDR[family], packet.TCP_DPORT), f"redirect{family}")
        return rule(its, _to_listener(ports, family))

    def alone(family: Family) -> Rule:
        return rule(InSet((packet.DADDR[family],), f"alone{family}"), RETURN)

    def node_ports(family: Family) -> Rule:
        its = InSet((packet.TCP_DPORT,), f"redirect_nodeports{family}")
        return rule(_NOT_LOOPBACK[family], its, _HERE, _to_listener(ports, family))

    landed = _each(lambda family: rule(_landing(family), RETURN))
    rules = rule(_OURS, RETURN), *_each(vips), *_each(alone), *landed, *_each(node_ports)
    return Chain("capture", rules)


def _guards() -> Chains:
    def limited(family: Family) -> Rule:
        fields = vip_fields(family)
        outside = InSet((*fields, packet.SADDR[family]), f"allowed{family}", negated=True)
        return rule(InSet(fields, f"limited{family}"), outside, DROP)

    def outside(family: Family) -> tuple[Statement, ...]:
        return _NOT_BY_LO, InSet((packet.SADDR[family],), f"pods{family}", negated=True)

    def inside(family: Family) -> Rule:
        return rule(InSet(vip_fields(family), f"inside{family}"), *outside(family), DROP)

    def inside_node_ports(family: Family) -> Rule:
        return rule(InSet(_NODE_PORT, f"inside_nodeports{family}"), *outside(family), _HERE, DROP)

    before = _each(inside) + _each(inside_node_ports)
    output = (
        rule(_NOT_NEW, ACCEPT),
        rule(_OURS, ACCEPT),
        rule(Match(packet.L4PROTO, "udp"), Match(packet.OIFNAME, "lo"), ACCEPT),
        *_each(_dropped),
    )
    to_guard = rule(jump("guard"))
    return (
        Chain("guard", _each(limited)),
        Chain("guard_prerouting", (*before, to_guard), Hook("nat", "prerouting", -110)),
        Chain("guard_output", (*output, to_guard), Hook("filter", "output", -151)),
    )


def _dropped(family: Family) -> Rule:
    return rule(InSet(vip_fields(family), f"drop{family}"), DROP)


def _unserved() -> Chain:
    refuse = goto("refuse")

    def rejected(family: Family) -> Rule:
        return rule(InSet(vip_fields(family), f"reject{family}"), refuse)

    def node_ports(family: Family) -> Rule:
        its = InSet(_NODE_PORT, f"reject_nodeports{family}")
        return rule(Match(packet.CT_DIRECTION, "original"), _NOT_LOOPBACK[family], its, _HERE, refuse)

    def not_served(family: Family) -> Rule:
        alone = InSet((packet.DADDR[family],), f"alone{family}")
        return rule(alone, InSet(vip_fields(family), f"served{family}", negated=True), refuse)

    rules = rule(_OURS, RETURN), *_each(rejected), *_each(_dropped), *_each(node_ports)
    landed = _each(lambda family: rule(_landing(family), refuse))
    return Chain("unserved", (*rules, rule(_NOT_NEW, RETURN), *_each(not_served), *landed))


def _refusals(ports: RedirectPorts) -> Chains:
    def not_redirected(family: Family) -> Rule:
        return rule(_of_family(family), _to_port(ports, family), _HERE, goto("refuse"))

    def by_lo(family: Family) -> Rule:
        return rule(_of_family(family), _to_port(ports, family), goto("refuse"))

    to_unserved = rule(jump("unserved"))
    prerouting = (*_each(not_redirected), to_unserved)
    came_in = (
        rule(_NOT_BY_LO, Match(packet.L4PROTO, "udp", negated=True), ACCEPT),
        rule(Match(packet.CT_STATUS, "dnat"), ACCEPT),
        rule(_NEW, jump("guard")),
        *_each(by_lo),
        to_unserved,
    )
    output = (rule(Match(packet.OIFNAME, "lo", negated=True), jump("unserved")),)
    return (
        Chain("refuse", (rule(TCP, Reject(with_tcp_reset=True)), rule(Reject()))),
        _unserved(),
        Chain("refuse_prerouting", prerouting, Hook("nat", "prerouting", -99)),
        Chain("refuse_input", came_in, Hook("filter", "input", -10)),
        Chain("refuse_output", output, Hook("nat", "output", -99)),
    )


def chains(ports: RedirectPorts) -> Chains:
    """All of them, for shared listeners on these ports."""
    to_capture = (rule(jump("capture")),)
    return (
        _capture(ports),
        Chain("capture_prerouting", to_capture, Hook("nat", "prerouting", -105)),
        Chain("capture_output", to_capture, Hook("nat", "output", -105)),
        *_guards(),
        *_refusals(ports),
    )
