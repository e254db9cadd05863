"""What the first packet to a Service costs, with few Services and with many, and who else does it how.

Every capture has a cluster of its own. All are up from the start, and asked in turns of a few
connections each, so that what the machine does besides falls on all alike.
"""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median

from benchmarks.at_scale.population import BACKEND_PORT, PORT, Population
from benchmarks.at_scale.running import cluster
from uproxy.bench.churn import named_servers
from uproxy.bench.sites import Pod
from uproxy.errors import CommandFailed
from uproxy.kit.lab import Host, Lab

TURNS = 40
_CONNECTIONS = 50
_USED = 0


@dataclass
class Path:
    """One way to a Service, and the times of its connections so far."""

    name: str
    services: int
    client: Host
    vip: str
    connects_s: list[float] = field(default_factory=list)
    answers_s: list[float] = field(default_factory=list)

    def turn(self) -> None:
        """Some connections, one after the other."""
        callers = self.client.inside(lambda: [socket.socket() for _ in range(_CONNECTIONS)])
        for caller in callers:
            with caller:
                started_s = time.perf_counter()
                caller.connect((self.vip, PORT))
                self.connects_s.append(time.perf_counter() - started_s)
                if not caller.recv(64):
                    raise CommandFailed(f"{self.name}: no answer")
                self.answers_s.append(time.perf_counter() - started_s)


def measure_first_packets(sizes: tuple[int, ...], endpoints: int) -> Iterator[str]:
    """The lines of a table, of one interleaved run."""
    with ExitStack() as stack:
        paths = [
            stack.enter_context(build(services, endpoints))
            for build in (_uproxy, _iptables, _verdict_maps)
            for services in sizes
        ]
        for number in range(TURNS):
            start = number % len(paths)
            for path in (*paths[start:], *paths[:start]):
                path.turn()
        yield f"{'connect p50, us':<28}" + "".join(f"{size:>10,}" for size in sizes) + f"{'ratio':>8}"
        for at in range(0, len(paths), len(sizes)):
            yield _row(paths[at : at + len(sizes)])


def _row(paths: list[Path]) -> str:
    connects = [median(path.connects_s) * 1e6 for path in paths]
    answers = [median(path.answers_s) * 1e6 for path in paths]
    figures = "".join(f"{figure:>10.0f}" for figure in connects)
    more = " ".join(f"{figure:.0f}" for figure in answers)
    return f"{paths[0].name:<28}{figures}{connects[-1] / connects[0]:>8.2f}   to the first byte: {more}"


@contextmanager
def _uproxy(services: int, endpoints: int) -> Iterator[Path]:
    with cluster(services, endpoints, pods=1) as made:
        yield Path("uproxy, redirect", services, made.lab.client, made.population.vip(_USED))


@contextmanager
def _kernel(
    name: str, services: int, endpoints: int, load: Callable[[Host, Population], None]
) -> Iterator[Path]:
    with Lab(pods=1) as lab, named_servers([Pod("pod1", lab.pods[0].ip4, BACKEND_PORT, lab.pods[0])]):
        population = Population(services, endpoints, (lab.pods[0].ip4,))
        load(lab.node, population)
        yield Path(name, services, lab.client, population.vip(_USED))


def _iptables(services: int, endpoints: int) -> "Iterator[Path]":
    return _kernel("iptables, a rule a Service", services, endpoints, _load_iptables)  # type: ignore[return-value]


def _verdict_maps(services: int, endpoints: int) -> "Iterator[Path]":
    return _kernel("nftables, verdict maps", services, endpoints, _load_nft)  # type: ignore[return-value]


def _load_iptables(node: Host, population: Population) -> None:
    """As kube-proxy's iptables mode: the Service that is used comes last, as any of them may."""
    numbers = [*range(1, population.services), _USED]
    chains = "".join(f":KUBE-SVC-{number} - [0:0]\n" for number in numbers)
    matches = "".join(
        f"-A KUBE-SERVICES -d {population.vip(number)}/32 -p tcp -m tcp --dport {PORT} -j KUBE-SVC-{number}\n"
        for number in numbers
    )
    targets = "".join(
        f"-A KUBE-SVC-{number} -p tcp -m tcp -j DNAT"
        f" --to-destination {population.addresses(number)[0]}:{BACKEND_PORT}\n"
        for number in numbers
    )
    text = f"*nat\n:KUBE-SERVICES - [0:0]\n{chains}-A PREROUTING -j KUBE-SERVICES\n{matches}{targets}COMMIT\n"
    node.run("iptables-restore", input=text)


def _load_nft(node: Host, population: Population) -> None:
    """As kube-proxy's nftables mode: one lookup, and a chain for each Service."""
    numbers = range(population.services)
    chains = "".join(f"\tchain service-{n} {{ {_dnat(population.addresses(n))} }}\n" for n in numbers)
    elements = ", ".join(f"{population.vip(n)} . tcp . {PORT} : goto service-{n}" for n in numbers)
    table = (
        "table ip kube-proxy {\n"
        f"{chains}"
        "\tmap service-ips { type ipv4_addr . inet_proto . inet_service : verdict;"
        f" elements = {{ {elements} }}; }}\n"
        "\tchain services { ip daddr . meta l4proto . th dport vmap @service-ips; }\n"
        "\tchain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }\n"
        "}\n"
    )
    node.run("nft", "-f", "-", input=table)


def _dnat(addresses: list[str]) -> str:
    turns = ", ".join(f"{turn} : {address} . {BACKEND_PORT}" for turn, address in enumerate(addresses))
    return f"meta l4proto tcp dnat ip to numgen random mod {len(addresses)} map {{ {turns} }};"
