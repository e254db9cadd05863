"""What a packet pays for a handoff's rules, beside rules that do nothing but translate.

    python -m benchmarks.handoff_cost [--mechanism nftables|ipvs] [--rounds N]

One Service in a lab, handed over by a proxy that is killed then: its rules stay. One thread has both ends of
the connection, so that each packet is carried on its CPU while it is sent, and nobody waits for a scheduler:
what is left is what the packets cost. Rules are exchanged in turns (`handoff_rules.py`). The fastest slice of
each turn counts, since what else a machine does only ever makes them slower; rates are compared within a
round, and the median round counts. Needs root, iproute2 and nftables.

IPVS is measured in this machine's kernel where that has it, otherwise in one that is a program: it needs
user-mode-linux, kmod, ipvsadm, iptables and ipset. That one is several times slower: only ratios count.
"""

import argparse
import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from operator import truediv
from pathlib import Path
from statistics import median
from time import perf_counter

from benchmarks.handoff_rules import Ipvs, Nftables, Rules
from tests.kernel.uml import KernelFailed, run_in_kernel
from tests.missing_packages import KERNEL_NEEDED, missing_packages
from uproxy.bench.sites import VIP_PORT, Place, lab_site
from uproxy.handoff import ipvs
from uproxy.kit.lab import reason_unavailable

_SLICES, _REQUESTS, _CONNECTIONS, _PIECES = 20, 120, 30, 40
_PIECE = bytes(16384)
_MESSAGE = b"x" * 64
_KERNEL_TIMEOUT_S = 1800


class Ends:
    """Both ends, in one thread: clients at `client`, which ask for `address` and come to `listener`."""

    def __init__(self, client: Place, address: tuple[str, int], listener: socket.socket) -> None:
        self._client, self._address, self._listener = client, address, listener
        listener.listen(128)

    def _made(self, count: int) -> list[socket.socket]:
        return self._client.inside(lambda: [socket.socket() for _ in range(count)])

    def _connected(self, client: socket.socket) -> socket.socket:
        client.connect(self._address)
        server, _ = self._listener.accept()
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return server

    def requests_us(self) -> float:
        """A request and its answer, on an open connection."""
        (client,) = self._made(1)
        with client, self._connected(client) as server:
            return _fastest_us(_REQUESTS, lambda: _ask(client, server))

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

    def pieces_us(self) -> float:
        """16 KiB, sent and received."""
        (client,) = self._made(1)
        with client, self._connected(client) as server:
            return _fastest_us(_PIECES, lambda: _send(client, server))


def _fastest_us(times: int, step: Callable[[], None]) -> float:
    """What a step takes in the fastest of some slices, each of so many."""
    took = []
    for _ in range(_SLICES):
        begun_s = perf_counter()
        for _ in range(times):
            step()
        took.append((perf_counter() - begun_s) / times)
    return min(took) * 1e6


def _send(client: socket.socket, server: socket.socket) -> None:
    client.sendall(_PIECE)
    server.recv(len(_PIECE), socket.MSG_WAITALL)


def _ask(client: socket.socket, server: socket.socket) -> None:
    client.send(_MESSAGE)
    server.recv(100)
    server.send(_MESSAGE)
    client.recv(100)


def main() -> int:
    """Print a line for each."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--mechanism", choices=("nftables", "ipvs"), default="nftables")
    parser.add_argument("--rounds", type=int, default=30)
    words = parser.parse_args()
    if words.mechanism == "ipvs" and not asyncio.run(ipvs.is_here()):
        return _in_kernel(sys.argv[1:])
    if reason := reason_unavailable():
        print(f"handoff_cost: {reason}", file=sys.stderr)
        return 1
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with lab_site() as site:
        rules: Rules = Ipvs(site) if words.mechanism == "ipvs" else Nftables(site)
        listener = site.pods[0].place.socket()
        listener.bind(("", site.pods[0].port))
        ends = Ends(site.client, (site.vip(0), VIP_PORT), listener)
        asked: tuple[tuple[str, Callable[[], float]], ...] = (
            ("a request on an open connection", ends.requests_us),
            ("connect, one request, close", ends.connections_us),
            ("16 KiB, sent and received", ends.pieces_us),
        )
        for label, measure in asked:
            print(label)
            for name, us, ratio in measured(rules, measure, words.rounds):
                print(f"  {name:40} {us:8.2f} us   {ratio:.3f} x the rate by hand")
    return 0


def _in_kernel(flags: list[str]) -> int:
    """The same, where there is IPVS."""
    if missing := missing_packages(KERNEL_NEEDED):
        print(f"handoff_cost: apt-get install {' '.join(missing)}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as state:
        argv = [sys.executable, "-m", "benchmarks.handoff_cost", *flags]
        try:
            status, output = run_in_kernel(argv, Path(state), _KERNEL_TIMEOUT_S)
        except KernelFailed as error:
            print(f"handoff_cost: {error}", file=sys.stderr)
            return 1
    print(output, end="")
    return status


def measured(rules: Rules, measure: Callable[[], float], rounds: int) -> Iterator[tuple[str, float, float]]:
    """Of each, its time and its rate beside that of the first."""
    names = list(rules.names)
    took: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            rules.load(name)
            took[name].append(measure())
    for name, some in took.items():
        yield name, median(some), median(map(truediv, took[names[0]], some))


if __name__ == "__main__":
    sys.exit(main())
