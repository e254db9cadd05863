"""What a packet pays for the nftables handoff's rules, beside rules that do nothing but translate.

    python -m benchmarks.handoff_cost [--rounds N]

One Service in a lab, handed over by a proxy that is killed then: its rules stay. One thread has both ends of
the connection, so that each packet is carried on its CPU while it is sent, and nobody waits for a scheduler:
what is left is what the packets cost. Rules are exchanged in turns. The fastest slice of each turn counts,
since what else a machine does only ever makes them slower; rates are compared within a round, and the median
round counts. Needs root, iproute2 and nftables.
"""

import argparse
import os
import re
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from operator import truediv
from pathlib import Path
from statistics import median
from time import perf_counter

from uproxy.bench import peers
from uproxy.bench.manifests import NODE_NAME, Manifests
from uproxy.bench.peers import Forward
from uproxy.bench.programs import running
from uproxy.bench.sites import VIP_PORT, Site, lab_site
from uproxy.kit.lab import reason_unavailable

_SLICES, _REQUESTS, _CONNECTIONS = 20, 120, 30
_MESSAGE = b"x" * 64
_BY_HAND = "by hand: DNAT alone"


@contextmanager
def handed_over(site: Site, folder: Path) -> Iterator[str]:
    """A proxy has handed its one Service over. Yields all rules of the node."""
    Manifests(folder, in_kernel=True).write_service(0, _forward(site))
    argv = (sys.executable, "-m", "uproxy", "run", "-f", str(folder), "--capture", "redirect")
    flags = ("--redirect-mechanism", "nft", "--handoff", "nftables", "--hostname-override", NODE_NAME)
    with running("uproxy", site.node, *argv, *flags) as program:
        program.wait_until(lambda: "go by nftables" in program.log, "to hand over")
        assert site.lab is not None
        yield site.lab.node.run("nft", "-s", "list", "ruleset").stdout


def _forward(site: Site) -> Forward:
    return Forward(site.vip(0), VIP_PORT, site.pods[:1])


def variants(rules: str, site: Site) -> Mapping[str, str]:
    """What is compared."""
    tables = re.split(r"(?m)^(?=table )", rules)
    handoff = next(its for its in tables if its.startswith("table inet uproxy-handoff"))
    elsewhere = re.sub(r"(set here4 \{\n\s*type [^\n]*\n)[^}]*\}\s*\}", r"\1}", rules)
    return {
        _BY_HAND: peers.dnat_rules([_forward(site)], []),
        "handed over": rules,
        "without the capture's rules": handoff,
        "the pod elsewhere: masquerade": elsewhere,
    }


class Ends:
    """Both ends, in one thread."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._vip = site.vip(0), VIP_PORT
        self._listener = site.pods[0].place.socket()
        self._listener.bind(("", site.pods[0].port))
        self._listener.listen(128)

    def _made(self, count: int) -> list[socket.socket]:
        return self._site.client.inside(lambda: [socket.socket() for _ in range(count)])

    def _connected(self, client: socket.socket) -> socket.socket:
        client.connect(self._vip)
        server, _ = self._listener.accept()
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return server

    def requests_us(self) -> float:
        """A request and its answer, on an open connection."""
        (client,) = self._made(1)
        with client, self._connected(client) as server:
            took = []
            for _ in range(_SLICES):
                begun_s = perf_counter()
                for _ in range(_REQUESTS):
                    _ask(client, server)
                took.append((perf_counter() - begun_s) / _REQUESTS)
        return min(took) * 1e6

    def connections_us(self) -> float:
        """Connect, one request, close."""
        took = []
        for _ in range(_SLICES // 2):
            clients = self._made(_CONNECTIONS)
            begun_s = perf_counter()
            for client in clients:
                with client, self._connected(client) as server:
                    _ask(client, server)
            took.append((perf_counter() - begun_s) / _CONNECTIONS)
        return min(took) * 1e6


def _ask(client: socket.socket, server: socket.socket) -> None:
    client.send(_MESSAGE)
    server.recv(100)
    server.send(_MESSAGE)
    client.recv(100)


def main() -> int:
    """Print a line for each."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--rounds", type=int, default=30)
    words = parser.parse_args()
    if reason := reason_unavailable():
        print(f"handoff_cost: {reason}", file=sys.stderr)
        return 1
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with (
        lab_site() as site,
        tempfile.TemporaryDirectory() as folder,
        handed_over(site, Path(folder)) as rules,
    ):
        _kill_proxy(site)
        ends = Ends(site)
        asked: tuple[tuple[str, Callable[[], float]], ...] = (
            ("a request on an open connection", ends.requests_us),
            ("connect, one request, close", ends.connections_us),
        )
        for label, measure in asked:
            print(label)
            for name, us, ratio in measured(site, variants(rules, site), measure, words.rounds):
                print(f"  {name:32} {us:6.2f} us   {ratio:.3f} x the rate by hand")
    return 0


def _kill_proxy(site: Site) -> None:
    assert site.lab is not None
    for pid in site.lab.node.pids():
        os.kill(pid, signal.SIGKILL)


def measured(
    site: Site, rules: Mapping[str, str], measure: Callable[[], float], rounds: int
) -> Iterator[tuple[str, float, float]]:
    """Of each, its time and its rate beside that by hand."""
    assert site.lab is not None
    node, names = site.lab.node, list(rules)
    took: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            node.sysctl("net.netfilter.nf_conntrack_acct", int(name != _BY_HAND))
            node.run("nft", "flush", "ruleset")
            node.run("nft", "-f", "-", input=rules[name])
            took[name].append(measure())
    for name, some in took.items():
        yield name, median(some), median(map(truediv, took[_BY_HAND], some))


if __name__ == "__main__":
    sys.exit(main())
