"""The constant part of the table `inet uproxy-handoff`: its sets, its chains, and their rules.

Owns which packets are asked what, and in which order. Refuses to know any Service (`nft_batch.py`). The same
as text is in tests/pure/handoff/golden/table.nft.
"""

from collections.abc import Iterator, Sequence
from itertools import product

from uproxy.kernel import nft_expressions as packet
from uproxy.kernel.nft_commands import Definition, merged
from uproxy.kernel.nft_expressions import Field
from uproxy.kernel.nft_messages import Element, Table
from uproxy.kernel.nft_nat import Masquerade
from uproxy.kernel.nft_statements import (
    ACCEPT,
    Decide,
    InSet,
    Masked,
    Match,
    VerdictMap,
    goto,
    jump,
)
from uproxy.kernel.nft_table import Chain, Hook, Rule, Set, rule
from uproxy.kernel.nft_types import ADDRESS, INET_PROTO, INET_SERVICE, Key
from uproxy.model.names import Family, IPNetwork

TABLE = Table("inet", "uproxy-handoff")
NOTED = "leave_input"
"""The chain whose rule says what accounting was before."""
_FAMILIES: tuple[Family, ...] = (4, 6)
_KINDS: tuple[tuple[str, Family, str], ...] = tuple(product(("tcp", "udp"), _FAMILIES, ("", "_node")))
_PORT = (packet.L4PROTO, packet.TH_DPORT)


def _key(family: Family, node: str) -> Key:
    """Of a set that counts: where the client went, but for NodePorts, and who answers."""
    its = (INET_SERVICE, ADDRESS[family], INET_SERVICE)
    return its if node else (ADDRESS[family], *its)


def _tuple(family: Family, node: str) -> tuple[Field, ...]:
    """The same, as it is read from a first packet, which is translated by then. Its port is not: nft would
    print that without the protocol, which it needs to read the others again."""
    its = packet.CT_ORIGINAL_PROTO_DST, packet.DADDR[family], packet.CT_REPLY_PROTO_SRC
    return its if node else (packet.CT_ORIGINAL_DADDR[family], *its)


def _sets() -> Iterator[Set]:
    for kind, family in product(("ahead", "services", "inside"), _FAMILIES):
        yield Set(f"{kind}{family}", (ADDRESS[family], INET_PROTO, INET_SERVICE), verdicts=True)
    for kind, family in product(("services", "inside"), _FAMILIES):
        yield Set(f"{kind}_node{family}", (INET_PROTO, INET_SERVICE), verdicts=True)
    for protocol, family, node in _KINDS:
        yield Set(f"new_{protocol}{family}{node}", _key(family, node), counter=True)
    for family in _FAMILIES:
        yield Set(f"here{family}", (ADDRESS[family], ADDRESS[family]))
        yield Set(f"pods{family}", (ADDRESS[family],), interval=True, auto_merge=True)


SETS = {its.name: its for its in _sets()}


# - Most addresses are in `ahead*`: for them neither who may come is asked first, nor who is inside. It is the
#   guard's lookups, of cold memory, that a first packet feels.
# - Only a first segment is taken: what the relay has in hand, and conntrack did not see begin, stays there.
# - `inside*` has only those addresses whose clients inside have other endpoints: at each new rule the kernel
#   walks from every base chain to all that it leads to.
# - `new_*` counts in chains of type nat, which see the first packet of each connection and no other. Bytes
#   are conntrack's: to count them by a set, in a chain that all packets pass, cost 7 % of a request.
# - Masquerade where answers would not come back here otherwise: from endpoints elsewhere; to clients behind a
#   bridge, since that may be the endpoint's; to an endpoint that calls itself; and to the node, whose address
#   may be the VIP. The answers of other endpoints on this node pass here, so they see who calls.
# - `here` has an address twice, so that one set tells both who is on this node and who calls himself. Before
#   Linux 5.7 `iif` is nothing in postrouting, and everything is masqueraded.
_FIRST_ONLY = rule(
    Match(packet.L4PROTO, "tcp"),
    Masked(packet.TCP_FLAGS, "fin | syn | rst | ack", "syn", negated=True),
    ACCEPT,
)
_UNTOUCHED = Masked(packet.CT_STATUS, "dnat", 0)
_HERE = Match(packet.FIB_DADDR_TYPE, "local")
_TAKE, _TAKE_INSIDE = rule(goto("take")), jump("take_inside")


def _of_family(family: Family) -> Match:
    return Match(packet.NFPROTO, f"ipv{family}")


def _addresses(kind: str) -> tuple[Rule, ...]:
    return tuple(rule(VerdictMap((packet.DADDR[one], *_PORT), f"{kind}{one}")) for one in _FAMILIES)


def _lookups(kind: str) -> tuple[Rule, ...]:
    """Node ports come after addresses, and are looked up for the node's own addresses only."""
    not_loopback = {
        4: Match(packet.DADDR[4], "127.0.0.0/8", negated=True),
        6: Match(packet.DADDR[6], "::1", negated=True),
    }
    node_ports = (
        rule(_of_family(one), not_loopback[one], _HERE, VerdictMap(_PORT, f"{kind}_node{one}"))
        for one in _FAMILIES
    )
    return (*_addresses(kind), *node_ports)


def _from_pods(family: Family) -> Rule:
    return rule(InSet((packet.SADDR[family],), f"pods{family}"), _TAKE_INSIDE)


def _counting(after: Decide) -> tuple[Rule, ...]:
    return tuple(
        rule(
            _of_family(family),
            Match(packet.L4PROTO, protocol),
            InSet(_tuple(family, node), f"new_{protocol}{family}{node}"),
            after,
        )
        for protocol, family, node in _KINDS
    )


def _leave() -> tuple[Rule, ...]:
    def calls_himself(family: Family) -> Rule:
        fields = packet.SADDR[family], packet.DADDR[family]
        return rule(InSet(fields, f"here{family}"), Masquerade())

    def passes_here(family: Family) -> Rule:
        fields = packet.DADDR[family], packet.DADDR[family]
        return rule(Match(packet.IIF, 0, negated=True), InSet(fields, f"here{family}"), ACCEPT)

    return (
        rule(Match(packet.IIFKIND, "bridge"), Masquerade()),
        *map(calls_himself, _FAMILIES),
        *map(passes_here, _FAMILIES),
        rule(Masquerade()),
    )


def _chains(comment: str) -> tuple[Chain, ...]:
    inside = _from_pods(4), _from_pods(6)
    ahead, untouched = (_FIRST_ONLY, *_addresses("ahead")), rule(_UNTOUCHED, ACCEPT)
    return (
        Chain("take", _lookups("services")),
        Chain("take_inside", _lookups("inside")),
        Chain("take_ahead", ahead, Hook("nat", "prerouting", -111)),
        Chain("take_prerouting", (_FIRST_ONLY, *inside, _TAKE), Hook("nat", "prerouting", -106)),
        Chain("take_output", (*ahead, rule(_TAKE_INSIDE), _TAKE), Hook("nat", "output", -106)),
        Chain("leave_postrouting", (untouched, *_counting(goto("leave"))), Hook("nat", "postrouting", 99)),
        Chain("leave", _leave()),
        Chain(
            NOTED,
            (rule(_UNTOUCHED, ACCEPT, comment=comment), *_counting(ACCEPT)),
            Hook("nat", "input", 99),
        ),
    )


def table(inside: Sequence[IPNetwork], comment: str) -> Definition:
    """The table without any Service. `comment` is found again in the chain NOTED."""
    pods: dict[str, Sequence[Element]] = {
        f"pods{family}": merged(one for one in inside if one.version == family) for family in _FAMILIES
    }
    return Definition(TABLE, tuple(SETS.values()), _chains(comment), pods)
