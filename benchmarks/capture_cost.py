"""What a connection pays for the way in which it comes to a proxy's one listener.

    python -m benchmarks.capture_cost [--rounds N]

A client, and a node with a listener, which are namespaces; rules by hand, one way each, exchanged in turns as
in `handoff_cost.py`, whose method this is: one thread has both ends, the fastest slice of each turn counts,
rates are compared within a round, and the median round counts. Then, for each way, how many of 64 connections
from one port of the client, to as many Services, come from another, since conntrack had to tell them apart.
Needs root, iproute2 and nftables.
"""

import argparse
import os
import socket
import sys
from collections.abc import Callable, Mapping

from benchmarks.handoff_cost import Ends, measured
from uproxy.kit.lab import Host, Lab, reason_unavailable

_PORT = 15001
_SERVICES = 64
_VIP, _VIP_PORT = "10.96.0.{}", 80
_CLIENT_PORT = 40_000
"""Of the first way, and so on: conntrack remembers who was where."""
_LOCAL = ("10.96.0.0/24", "192.0.0.192/26")
_MATCH = "ip daddr 10.96.0.0/24 tcp dport 80"
_CHAIN = """\
flush ruleset
table inet capture {{
	chain {hook} {{
		type {kind} hook {hook} priority -105;
		{rules}
	}}
}}
"""
_TPROXY = "tproxy"
_TPROXY_RULES = f"""\
		ct state new {_MATCH} tproxy ip to :{_PORT} meta mark set 1 accept
		socket transparent 1 meta mark set 1"""
_REDIRECT = "redirect"
_HOW: Mapping[str, str] = {
    _REDIRECT: f"redirect to :{_PORT}",
    "dnat to one address": f"dnat ip to 192.0.0.193:{_PORT}",
    "dnat to 62 addresses": f"dnat ip to 192.0.0.193-192.0.0.254:{_PORT}",
    "dnat of the port alone": f"dnat to :{_PORT}",
}


class Ways:
    """The rules of the node, each way in the place of another."""

    def __init__(self, node: Host, listener: socket.socket, *, from_outside: bool) -> None:
        self._node, self._listener = node, listener
        hook = "prerouting" if from_outside else "output"
        self._rules = {
            name: _CHAIN.format(kind="nat", hook=hook, rules=f"{_MATCH} {how}") for name, how in _HOW.items()
        }
        if from_outside:  # what the node itself sends never comes to that chain
            self._rules[_TPROXY] = _CHAIN.format(kind="filter", hook=hook, rules=_TPROXY_RULES)
        self.names = self._rules.keys()

    def load(self, name: str) -> None:
        """From now on connections come this way."""
        self._node.run("nft", "-f", "-", input=self._rules[name])
        # Where it changes a port, the kernel looks for the right socket once more, but for a transparent one.
        self._listener.setsockopt(socket.IPPROTO_IP, socket.IP_TRANSPARENT, name == _TPROXY)


def main() -> int:
    """Print a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    words = parser.parse_args()
    if reason := reason_unavailable():
        print(f"capture_cost: {reason}", file=sys.stderr)
        return 1
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with Lab(pods=0) as lab:
        _prepare(lab)
        for label, client in (("from outside", lab.client), ("from the node itself", lab.node)):
            with lab.node.socket() as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(("", _PORT))
                ways = Ways(lab.node, listener, from_outside=client is lab.client)
                _compare(label, ways, Ends(client, (_VIP.format(10), _VIP_PORT), listener), words.rounds)
                print(f"{label}: of {_SERVICES} from one port of the client, come from another")
                for number, name in enumerate(ways.names):
                    ways.load(name)
                    print(f"  {name:40} {_renamed(client, _CLIENT_PORT + number, listener)}", flush=True)
    return 0


def _prepare(lab: Lab) -> None:
    for host in lab.hosts:
        host.sysctl("net.ipv4.ip_local_port_range", "16000 39999")
        host.sysctl("net.ipv4.tcp_tw_reuse", 1)
    for network in _LOCAL:
        lab.node.run("ip", "route", "add", "local", network, "dev", "lo", "table", "local")
    lab.node.run("ip", "rule", "add", "fwmark", "1", "priority", "8", "table", "30064")
    lab.node.run("ip", "route", "add", "local", "default", "dev", "lo", "table", "30064")


def _compare(label: str, ways: Ways, ends: Ends, rounds: int) -> None:
    asked: tuple[tuple[str, Callable[[], float]], ...] = (
        ("a request on an open connection", ends.requests_us),
        ("connect, one request, close", ends.connections_us),
    )
    for what, measure in asked:
        print(f"{label}: {what}")
        for name, us, ratio in measured(ways, measure, rounds):
            print(f"  {name:40} {us:8.2f} us   {ratio:.3f} x the rate of {_REDIRECT}")


def _renamed(client: Host, from_port: int, listener: socket.socket) -> int:
    """How many connections from one port arrive from another."""
    ends = []
    renamed = 0
    for number in range(_SERVICES):
        sock = client.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", from_port))
        sock.connect((_VIP.format(10 + number), _VIP_PORT))
        accepted, (_, port) = listener.accept()
        renamed += port != from_port
        ends += [sock, accepted]
    for end in ends:
        end.close()
    return renamed


if __name__ == "__main__":
    sys.exit(main())
