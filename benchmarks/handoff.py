"""How long the kernel takes to be told: one endpoint more, one other endpoint, and 1,000 Services at once.
And what a first packet pays for their number.

    python -m benchmarks.handoff [--mechanism NAME] [--services N] [--endpoints N] [--changes N]

Programs Services of two addresses each through a Mechanism, as the handoff does, in network namespaces of its
own. Then a client connects to the address that came last, and to a Pod, which no rule is about. Needs root,
iproute2 and what the mechanism needs.
"""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from ipaddress import IPv4Address, ip_network
from socket import SHUT_RDWR
from statistics import median, quantiles
from threading import Thread
from time import perf_counter

from uproxy.handoff.choice import MECHANISMS, made
from uproxy.handoff.mechanism import Mechanism
from uproxy.handoff.plan import KernelPort, KernelVip
from uproxy.handoff.target import AT_ONCE
from uproxy.kit.lab import Lab, reason_unavailable
from uproxy.model.frontend import Backend
from uproxy.model.names import Protocol, ServicePortName, Vip

_VIPS, _EXTERNAL = IPv4Address("172.30.0.0"), IPv4Address("172.31.0.0")
_PODS, _OTHERS = IPv4Address("10.128.0.0"), IPv4Address("10.0.0.0")


def service(number: int, endpoints: int, other: int = 0) -> KernelPort:
    """A Service port with two addresses, each with the same endpoints; `other` is of the last of them."""
    pods = [Backend(_PODS + number * 256 + one, 8080) for one in range(1, endpoints)]
    backends = (*pods, Backend(_OTHERS + number + (other << 10), 8080))
    vips = (
        KernelVip(Vip(first + number, 80, Protocol.TCP), backends, backends) for first in (_VIPS, _EXTERNAL)
    )
    return KernelPort(ServicePortName("bench", f"s{number}", "web", Protocol.TCP), tuple(vips))


async def timed_ms(work: Awaitable[object]) -> float:
    """How long it took."""
    begun_s = perf_counter()
    await work
    return (perf_counter() - begun_s) * 1000


async def changes(mechanism: Mechanism, count: int, endpoints: int, label: str) -> None:
    """One Service among those that are there: an endpoint is replaced, or comes and goes."""
    for words, version in (
        ("one endpoint replaced", lambda turn: service(1, endpoints, 1 + turn)),
        ("one endpoint more, or less", lambda turn: service(1, endpoints + 1 - turn % 2)),
    ):
        took = [await timed_ms(mechanism.put([version(turn)])) for turn in range(count)]
        print(
            f"  {words}, {label}: median {median(took):.2f} ms, 9 of 10 in {quantiles(took, n=10)[-1]:.2f} ms"
        )


async def measure(make: Callable[[], Mechanism], services: int, endpoints: int, count: int) -> None:
    """Everything, a line for each figure. The mechanism is made here, in the namespace that it is for."""
    mechanism = make()
    await mechanism.begin([ip_network("10.244.0.0/24")])
    await mechanism.put([service(1, endpoints)])
    await changes(mechanism, count, endpoints, "alone")
    every = [service(number, endpoints) for number in range(1, services + 1)]
    for turn in range(3):
        await mechanism.begin([ip_network("10.244.0.0/24")])
        took = 0.0
        for first in range(0, services, AT_ONCE):
            took += await timed_ms(mechanism.put(every[first : first + AT_ONCE]))
        print(f"  {services} Services, round {turn + 1}: {took / 1000:.2f} s")
    await changes(mechanism, count, endpoints, f"among {services}")
    print(f"  a look at all: {await timed_ms(mechanism.look()):.0f} ms")
    names = [port.name for port in every]
    print(f"  all taken back: {await timed_ms(mechanism.take(names)) / 1000:.2f} s")
    await mechanism.close()


def connects_us(lab: Lab, address: tuple[str, int], count: int = 1000) -> float:
    """How long a connection takes to be there: a first packet, and its answer."""
    took = []
    for _ in range(count):
        with lab.client.socket() as sock:
            begun_s = perf_counter()
            sock.connect(address)
            took.append(perf_counter() - begun_s)
    return median(took) * 1e6


@contextmanager
def listening(lab: Lab) -> Iterator[tuple[str, int]]:
    """A Pod that takes connections, and lets go of them."""
    with lab.pods[0].socket() as sock:
        sock.bind((lab.pods[0].ip4, 8080))
        sock.listen(128)

        def serve() -> None:
            with suppress(OSError):
                while True:
                    sock.accept()[0].close()

        thread = Thread(target=serve, name="pod", daemon=True)
        thread.start()
        yield lab.pods[0].ip4, 8080
        sock.shutdown(SHUT_RDWR)
        thread.join()


def first_packets(lab: Lab, make: Callable[[], Mechanism], services: int, endpoints: int) -> None:
    """With nothing handed over, and then with so many."""
    with listening(lab) as pod:
        print(f"  connect to a Pod, nothing handed over: {connects_us(lab, pod):.0f} us")
        last = Vip(_VIPS + services, 80, Protocol.TCP)
        ends = (Backend(IPv4Address(pod[0]), pod[1]),)
        reached = KernelPort(
            ServicePortName("bench", "last", "", Protocol.TCP), (KernelVip(last, ends, ends),)
        )
        every = [*(service(number, endpoints) for number in range(1, services)), reached]

        async def program() -> Mechanism:
            mechanism = make()
            await mechanism.begin([])
            for first in range(0, services, AT_ONCE):
                await mechanism.put(every[first : first + AT_ONCE])
            return mechanism

        mechanism = lab.node.inside(lambda: asyncio.run(program()))
        print(f"  connect to the last of {services}: {connects_us(lab, (str(last.ip), 80)):.0f} us")
        print(f"  connect to a Pod, {services} handed over: {connects_us(lab, pod):.0f} us")
        lab.node.inside(lambda: asyncio.run(mechanism.close()))


def main() -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mechanism", choices=MECHANISMS, default="nftables")
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--endpoints", type=int, default=10)
    parser.add_argument("--changes", type=int, default=100)
    words = parser.parse_args()
    reason = reason_unavailable()
    if reason is not None:
        print(reason, file=sys.stderr)
        return 1
    make = partial(made, words.mechanism)
    print(f"{words.mechanism}, {words.endpoints} endpoints each")
    with Lab() as lab:
        lab.node.inside(lambda: asyncio.run(measure(make, words.services, words.endpoints, words.changes)))
        first_packets(lab, make, words.services, words.endpoints)
    return 0


if __name__ == "__main__":
    sys.exit(main())
