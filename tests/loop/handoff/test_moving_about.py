"""Names, addresses, endpoints and ports that move between Services, in any order: the kernel has what one
would have that was programmed from nothing, and everybody is credited with what he had."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from ipaddress import ip_address
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from tests.loop.handoff.kernels import Iptables, NfTables, VirtualServers
from tests.loop.handoff.test_target import Books
from uproxy.handoff import iptables as by_iptables
from uproxy.handoff import ipvs, target
from uproxy.handoff.iptables import IptablesHandoff
from uproxy.handoff.ipvs import IpvsHandoff
from uproxy.handoff.mechanism import Mechanism
from uproxy.handoff.nft_batch import counter, suffix
from uproxy.handoff.nftables import NftablesHandoff
from uproxy.handoff.plan import kernel_port
from uproxy.handoff.target import KernelPaths
from uproxy.kernel.conntrack_looks import Alike
from uproxy.kernel.conntrack_looks import Traffic as Had
from uproxy.kernel.conntrack_messages import Translated
from uproxy.model.frontend import (
    Backend,
    Changes,
    DesiredServicePort,
    EndpointState,
    Frontend,
    FrontendKind,
)
from uproxy.model.names import Protocol, ServicePortName, Vip
from uproxy.model.options import parse_options

NODE = ip_address("192.0.2.1")
ALWAYS = parse_options({"uproxy.dev/handoff": "always"})[0]
PODS = [Backend(ip_address(f"10.244.0.{last}"), 8080) for last in (1, 2, 3)]
PLACES = [
    (ip_address("10.96.0.1"), 80, FrontendKind.CLUSTER_IP),
    (ip_address("10.96.0.2"), 80, FrontendKind.CLUSTER_IP),
    (ip_address("203.0.113.1"), 443, FrontendKind.LOAD_BALANCER),
    (ip_address("0.0.0.0"), 30080, FrontendKind.NODE_PORT),
]
NAMES = [(service, port) for service in ("web", "shop") for port in ("", "http")]
World = dict[ServicePortName, DesiredServicePort]


class Connections:
    """Stands where `Conntrack` does."""

    def __init__(self) -> None:
        self.open: dict[Translated, Alike] = {}
        self.forgotten: list[Translated] = []

    async def look(self) -> Mapping[Translated, Alike]:
        now, self.open = self.open, {flow: Alike(its.open, Had()) for flow, its in self.open.items()}
        return now

    async def forget(self, is_gone: Callable[[Translated], bool]) -> None:
        every = (
            Translated(Protocol.UDP, NODE if ip.is_unspecified else ip, port, pod)
            for ip, port, _ in PLACES
            for pod in PODS
        )
        self.forgotten += [flow for flow in every if is_gone(flow)]

    async def forget_untranslated(self, vips: Collection[Vip]) -> None:
        pass


class Machine:
    """A mechanism on a kernel of its own."""

    def __init__(self, kind: str, patch: pytest.MonkeyPatch) -> None:
        self.connections, self.books = Connections(), Books()
        self.kernel: Any
        mechanism: Any
        if kind == "nftables":
            self.kernel, mechanism = NfTables(), NftablesHandoff(self.connections)
            mechanism._link, mechanism.begin = self.kernel, self._nothing
        elif kind == "iptables":
            self.kernel, mechanism = Iptables(), IptablesHandoff(self.connections)
            patch.setattr(by_iptables, "restore", self.kernel.restore)
            patch.setattr(by_iptables, "execute", self.kernel.execute)
        else:
            self.kernel, mechanism = VirtualServers(), IpvsHandoff(self.connections)
            mechanism._ipvs = self.kernel
            patch.setattr(ipvs, "ipvs_rules", self.kernel)
            patch.setattr(ipvs, "node_addresses", lambda: {NODE})
        mechanism.lost = self._all_there
        self.mechanism: Mechanism = mechanism
        self.paths = KernelPaths(mechanism, self.books, lambda: 0.1, lambda: 0.0, lambda: 0.0)

    async def _nothing(self, _inside: object) -> None:
        pass

    async def _all_there(self) -> None:
        pass

    def connect(self, flow: Translated, node_port: bool, more: int) -> None:
        """Some more connections, by what new ones would be led by."""
        vip, backend = flow.vips[node_port], flow.backend
        if isinstance(self.kernel, NfTables):
            name, key = f"new_{suffix(vip)}", counter(vip, backend).key
            assert key in self.kernel.sets[name]
            self.kernel.packets[name, key] = self.kernel.packets.get((name, key), 0) + more
        elif isinstance(self.kernel, VirtualServers):
            at = flow.vips[0], backend
            self.kernel.traffic[at] = self.kernel.traffic.get(at, 0) + more
        before = self.connections.open.get(flow, Alike(0, Had()))
        self.connections.open[flow] = Alike(before.open + more, Had(before.more.connections + more))

    def credited(self) -> dict[ServicePortName, int]:
        return {name: both[0] for name, both in self.books.numbers.items() if both[0]}


def world_of(draw: Random) -> World:
    """Each address has one owner, or none; several may have one endpoint."""
    found: dict[ServicePortName, DesiredServicePort] = {}
    for ip, port, kind in PLACES:
        service, name = draw.choice(NAMES)
        protocol = draw.choice((Protocol.TCP, Protocol.UDP))
        pods = tuple(draw.sample(PODS, draw.randint(0, 3)))
        key = ServicePortName("default", service, name, protocol)
        frontend = Frontend(Vip(ip, port, protocol), kind, 4)
        states = dict.fromkeys(pods, EndpointState.READY)
        affinity = draw.choice((None, None, 60))
        new = DesiredServicePort(key, port, (), states, {4: pods}, affinity, options=ALWAYS)
        old = found.get(key, replace(new, here=frozenset(pods[:1])))
        found[key] = replace(old, frontends=(*old.frontends, frontend))
    return found


def led(world: World) -> list[tuple[ServicePortName, Translated, bool]]:
    """What new connections can be."""
    return [
        (
            name,
            Translated(name.protocol, NODE if its.vip.is_node_port else its.vip.ip, its.vip.port, pod),
            its.vip.is_node_port,
        )
        for name, desired in world.items()
        if (port := kernel_port(desired)) is not None
        for its in port.vips
        for pod in its.backends
    ]


def batches(draw: Random, before: World, world: World) -> list[Changes]:
    """From one world to another, in any order, in up to three batches."""
    parts = [*(name for name in before if name not in world), *world.values()]
    draw.shuffle(parts)
    edges = sorted({0, len(parts), *(draw.randint(0, len(parts)) for _ in range(draw.randint(0, 2)))})
    return [
        Changes(
            tuple(one for one in parts[start:end] if isinstance(one, DesiredServicePort)),
            tuple(one for one in parts[start:end] if isinstance(one, ServicePortName)),
        )
        for start, end in pairwise(edges)
    ]


async def live(kind: str, draw: Random) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, "AT_ONCE", draw.choice((1, 2, 250)))
        patch.setattr(by_iptables, "not_forwarded", lambda _: None)
        patch.setattr(by_iptables.accounting, "switch_on", lambda: None)
        machine, expected, before = Machine(kind, patch), dict[ServicePortName, int](), World()
        for _ in range(draw.randint(2, 5)):
            world = world_of(draw)
            machine.connections.forgotten.clear()
            parts = batches(draw, before, world)
            for changes in parts:
                await machine.paths.make(changes)
            before, possible = world, led(world)
            if len(parts) == 1:
                assert not {flow for _, flow, _ in possible} & set(machine.connections.forgotten)
            for name, flow, node_port in draw.choices(possible, k=draw.randint(0, 4)) if possible else ():
                more = draw.randint(1, 1000)
                machine.connect(flow, node_port, more)
                expected[name] = expected.get(name, 0) + more
            await machine.paths.look()
            if draw.random() < 0.5:
                machine.connections.open.clear()
                await machine.paths.look()
            assert machine.credited() == expected
        machine.connections.open.clear()
        for _ in range(3):
            await machine.paths.look()
        found = machine.kernel.led()
        fresh = Machine(kind, patch)
        await fresh.paths.make(Changes(tuple(before.values())))
        assert found == fresh.kernel.led()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["nftables", "iptables", "ipvs"])
def test_what_moves_about_leaves_what_a_kernel_would_have_from_nothing(kind: str, seed: int) -> None:
    draw = Random(seed)
    for _ in range(10):
        asyncio.run(live(kind, draw))
