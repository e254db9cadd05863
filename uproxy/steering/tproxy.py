"""Verdicts for capture `tproxy`, as the same table `inet uproxy`: packets keep both addresses.

Owns the chains that lead packets to our sockets without translating anything, and the mark that
they are routed by (`policy_routes.py`). Refusing is done as `nft.py` does it. Sources: nft(8),
`TPROXY STATEMENT` and `SOCKET EXPRESSION`; the kernel's Documentation/networking/tproxy.rst.
"""

from collections.abc import Mapping

from uproxy.model.names import Vip
from uproxy.steering import nft
from uproxy.steering.rules import PROXY_MARK, RedirectPorts, Verdict

DELIVERY_MARK, DELIVERY_MASK = 0x3075, 0xFFFF
"""On packets that the policy route is to deliver here. The upper half is left to others (Calico's
default), and no bit is one of kube-proxy's (0x4000, 0x8000)."""

_SETS = {
    "tproxy4": "ipv4_addr . inet_proto . inet_service",
    "tproxy6": "ipv6_addr . inet_proto . inet_service",
    "tproxy_nodeports4": "inet_proto . inet_service",
    "tproxy_nodeports6": "inet_proto . inet_service",
}

# Why it is so:
# - `tproxy` gives a SYN to the listener, which is on loopback, where no other host gets at it. What
#   belongs to a connection, or to a UDP socket that is bound to a VIP, is found by `socket`.
# - Without a listener (a dead proxy) `tproxy` has no effect, and the kernel refuses what is delivered.
# - `socket` comes after dstnat (-100): a dial that the CNI masquerades has its answers translated back
#   there. It finds sockets that time out or are half open too, which have no mark; those that have
#   somebody else's are left alone.
# - A packet of the node itself never meets prerouting, unless it goes round by `lo`. Those for VIPs
#   with a local route do; a mark sends the others there. That of a VIP without endpoints goes too, for
#   the sake of connections that exist, and loses its mark again, so that it is refused.
# - What was delivered bears the proxy's mark on input, and is not refused: connections outlive the
#   last endpoint.
_CHAINS = """\
	chain tproxy_deliver {{
		meta nfproto ipv4 meta l4proto tcp tproxy ip to 127.0.0.1:{ports.ipv4}
		meta nfproto ipv6 meta l4proto tcp tproxy ip6 to [::1]:{ports.ipv6}
		{deliver}
	}}
	chain tproxy_capture {{
		type filter hook prerouting priority -150; policy accept;
		meta mark {mark:#x} return
		ip daddr . meta l4proto . th dport @tproxy4 goto tproxy_deliver
		ip6 daddr . meta l4proto . th dport @tproxy6 goto tproxy_deliver
		ip daddr != 127.0.0.0/8 meta l4proto . th dport @tproxy_nodeports4 \
fib daddr type local goto tproxy_deliver
		ip6 daddr != ::1 meta l4proto . th dport @tproxy_nodeports6 \
fib daddr type local goto tproxy_deliver
		meta mark & {mask:#x} == {delivery:#x} meta mark set meta mark & {others:#x}
	}}
	chain tproxy_socket {{
		socket mark != {mark:#x} return
		{deliver}
	}}
	chain tproxy_established {{
		type filter hook prerouting priority -95; policy accept;
		socket transparent 1 jump tproxy_socket
	}}
	chain tproxy_output {{
		type route hook output priority -150; policy accept;
		meta mark {mark:#x} return
		oifname "lo" return
		ip daddr . meta l4proto . th dport @tproxy4 {deliver}
		ip6 daddr . meta l4proto . th dport @tproxy6 {deliver}
		ip daddr . meta l4proto . th dport @reject4 {deliver}
		ip6 daddr . meta l4proto . th dport @reject6 {deliver}
	}}
	chain tproxy_input {{
		type filter hook input priority -11; policy accept;
		meta mark & {mask:#x} == {delivery:#x} meta mark set {mark:#x}
	}}
"""


def render_table(ports: RedirectPorts, verdicts: Mapping[Vip, Verdict]) -> str:
    """One transaction that puts the complete table in the place of any older one."""
    others = ~DELIVERY_MASK & 0xFFFFFFFF
    chains = (nft.REFUSE_CHAINS + _CHAINS).format(
        ports=ports,
        mark=PROXY_MARK,
        delivery=DELIVERY_MARK,
        mask=DELIVERY_MASK,
        others=others,
        deliver=f"meta mark set meta mark & {others:#x} | {DELIVERY_MARK:#x}",
    )
    return nft.render(_SETS | nft.REFUSE_SETS, chains, verdicts)
