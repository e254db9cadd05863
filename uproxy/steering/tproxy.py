"""What capture `tproxy` adds to the table `inet uproxy`, so that endpoints see their clients' addresses.

Owns the way of packets to transparent sockets, those that have addresses of others: the answers of
endpoints that were dialled from a client's address, and datagrams for VIPs that are not local. All
else is as `nft.py` has it: TCP is redirected here too, which keeps the client's address just as well as
the TPROXY statement, and works where packets come over a bridge (docs/decisions/0008-tproxy.md).
Sources: nft(8), `SOCKET EXPRESSION`; the kernel's Documentation/networking/tproxy.rst.
"""

from collections.abc import Mapping, Sequence

from uproxy.kernel import nft_expressions as packet
from uproxy.kernel.nft_commands import Definition
from uproxy.kernel.nft_statements import RETURN, InSet, Match, SetMark, goto, jump
from uproxy.kernel.nft_table import Chain, Hook, Rule, rule
from uproxy.kit.netfilter import PROXY_MARK
from uproxy.model.names import Family, IPNetwork, Vip
from uproxy.steering import nft
from uproxy.steering.nft_chains import DELIVER_SETS, vip_fields
from uproxy.steering.rules import RedirectPorts
from uproxy.steering.rules import Rule as VipRule

DELIVERED, TURNED_ROUND, MASK = 0x3075, 0x3077, 0xFFFF
"""Marks of packets that the policy route is to deliver here: those that came in, and the node's own.
The upper half is left to others (Calico's default), and no bit is one of kube-proxy's (0x4000, 0x8000)."""

# Why it is so:
# - After dstnat (-100): a dial that the CNI masquerades has its answers translated back there, and not
#   every kernel's `socket` sees through that for IPv6.
# - `socket` finds those that rest in TIME_WAIT too. They bear no mark, so that the rule for sockets with
#   somebody else's, which are left to him, does not match them.
# - A datagram of the node itself for an address that is not local would leave: a mark turns it round.
#   One that is to be refused is so on its way out, and the sender sees EPERM: turned round, IPv4 would
#   not send it "port unreachable", from an address that is not local.

_OTHERS = ~MASK & 0xFFFFFFFF


def _deliver(family: Family) -> Rule:
    return rule(InSet(vip_fields(family), f"deliver{family}"), goto("turn_round"))


_CHAINS = (
    Chain(
        "deliver",
        (
            rule(Match(packet.SOCKET_MARK, PROXY_MARK, negated=True), RETURN),
            rule(SetMark(_OTHERS, DELIVERED)),
        ),
    ),
    Chain(
        "deliver_prerouting",
        (rule(Match(packet.SOCKET_TRANSPARENT, 1), jump("deliver")),),
        Hook("filter", "prerouting", -95),
    ),
    Chain("turn_round", (rule(SetMark(_OTHERS, TURNED_ROUND)),)),
    Chain(
        "deliver_output",
        (rule(Match(packet.MARK, PROXY_MARK), RETURN), _deliver(4), _deliver(6)),
        Hook("route", "output", -150),
    ),
)


def table(ports: RedirectPorts, rules: Mapping[Vip, VipRule], inside: Sequence[IPNetwork]) -> Definition:
    """The complete table."""
    return nft.table(ports, rules, inside, DELIVER_SETS, _CHAINS)
