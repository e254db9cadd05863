"""What capture `tproxy` adds to the table `inet uproxy`, so that endpoints see their clients' addresses.

Owns the way of packets to transparent sockets, those that have addresses of others: the answers of
endpoints that were dialled from a client's address, and datagrams for VIPs that are not local. All
else is as `nft.py` has it: TCP is redirected here too, which keeps the client's address just as well as
the TPROXY statement, and works where packets come over a bridge (docs/decisions/0008-tproxy.md).
Sources: nft(8), `SOCKET EXPRESSION`; the kernel's Documentation/networking/tproxy.rst.
"""

from collections.abc import Mapping, Sequence

from uproxy.kit.netfilter import PROXY_MARK
from uproxy.model.names import IPNetwork, Vip
from uproxy.steering import nft
from uproxy.steering.rules import RedirectPorts, Rule

DELIVERED, TURNED_ROUND, MASK = 0x3075, 0x3077, 0xFFFF
"""Marks of packets that the policy route is to deliver here: those that came in, and the node's own.
The upper half is left to others (Calico's default), and no bit is one of kube-proxy's (0x4000, 0x8000)."""

_SETS = {
    "deliver4": "ipv4_addr . inet_proto . inet_service",
    "deliver6": "ipv6_addr . inet_proto . inet_service",
}

# Why it is so:
# - After dstnat (-100): a dial that the CNI masquerades has its answers translated back there, and not
#   every kernel's `socket` sees through that for IPv6.
# - `socket` finds those that rest in TIME_WAIT too. They bear no mark, so that the rule for sockets with
#   somebody else's, which are left to him, does not match them.
# - A datagram of the node itself for an address that is not local would leave: a mark turns it round.
#   One that is to be refused is so on its way out, and the sender sees EPERM: turned round, IPv4 would
#   not send it "port unreachable", from an address that is not local.
_CHAINS = """\
	chain deliver {{
		socket mark != {proxy_mark:#x} return
		meta mark set meta mark & {others:#x} | {delivered:#x}
	}}
	chain deliver_prerouting {{
		type filter hook prerouting priority -95; policy accept;
		socket transparent 1 jump deliver
	}}
	chain turn_round {{
		meta mark set meta mark & {others:#x} | {turned_round:#x}
	}}
	chain deliver_output {{
		type route hook output priority -150; policy accept;
		meta mark {proxy_mark:#x} return
		ip daddr . meta l4proto . th dport @deliver4 goto turn_round
		ip6 daddr . meta l4proto . th dport @deliver6 goto turn_round
	}}
"""


def render_table(ports: RedirectPorts, rules: Mapping[Vip, Rule], inside: Sequence[IPNetwork]) -> str:
    """One transaction that puts the complete table in the place of any older one."""
    chains = _CHAINS.format(
        proxy_mark=PROXY_MARK,
        delivered=DELIVERED,
        turned_round=TURNED_ROUND,
        others=~MASK & 0xFFFFFFFF,
    )
    return nft.render_table(ports, rules, inside, _SETS, chains)
