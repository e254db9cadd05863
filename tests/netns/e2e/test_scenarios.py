"""Every scenario, with real packets: all Services at once, in one proxy, and each packet sent."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import pytest
import pytest_asyncio

from tests.manifests import Manifest, service
from tests.netns.e2e.callers import (
    SILENT_FOR_S,
    all_who_answer,
    answer,
    datagram_is_refused,
    gets_no_answer,
    is_refused,
    who_answers,
)
from tests.netns.e2e.servers import Greeter
from tests.netns.e2e.stage import Stage, Way, way
from tests.proxy_process import Address, ProxyProcess, eventually, nonblocking
from tests.scenario import NODE, SECOND_PORTS, Packet, Scenario, Step, load_all, node_object
from uproxy.dataplane.relay.native_relay import engine_or_reason
from uproxy.kit.lab import Host, Lab

WAYS = [
    way("bind", "python"),
    way("bind", "native-2"),
    way("redirect-nft", "python"),
    way("redirect-nft", "native-2"),
    way("redirect-iptables", "native-2"),
    way("tproxy", "python"),
    way("tproxy", "native-2"),
]
AT_ONCE = 40
ANSWERED_WITHIN_S = 3
"""Shorter than the test's own time, so that every packet that goes astray is named."""


@pytest_asyncio.fixture(params=WAYS, ids=str)
async def stage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    chosen: Way = request.param
    async with staged(chosen, tmp_path) as made:
        yield made


@asynccontextmanager
async def staged(chosen: Way, folder: Path) -> AsyncIterator[Stage]:
    """Pods that answer."""
    if not chosen.by_python and (reason := engine_or_reason()):
        pytest.skip(f"no native relay: {reason}")
    with Lab(node_default_route=True) as lab:
        for host in lab.hosts:
            host.sysctl("net.ipv4.icmp_ratelimit", 0)
            host.sysctl("net.ipv6.icmp.ratelimit", 0)
        made = Stage(lab, chosen, folder)
        second = [Greeter(f"{pod.name}-second", pod.host, *SECOND_PORTS.values()) for pod in made.pods]
        for pod in (*made.pods, *second):
            await pod.listen_tcp()
            pod.listen_udp()
        yield made
        for pod in (*made.pods, *second):
            pod.kill()


def host_of(stage: Stage, origin: str) -> Host:
    if origin.startswith("pod"):
        return stage.lab.pods[int(origin[3:]) - 1]
    return {"outside": stage.client, "node": stage.node}[origin]


def refused_on_output(stage: Stage, packet: Packet, protocol: str) -> bool:
    """Whether a datagram is refused on its way out of the node, as it has no local route."""
    external = packet.target in ("load-balancer", "external-ip")
    return (
        stage.way.name.startswith(("tproxy", "redirect"))
        and (packet.origin, protocol, external) == ("node", "UDP", True)
        and packet.outcome == {"REJECT"}
    )


class Clients:
    """Clients by UDP that keep their ports as long as the test lasts."""

    def __init__(self) -> None:
        self._sockets: dict[tuple[Host, Address], socket.socket] = {}
        self._others: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (*self._sockets.values(), *self._others):
            sock.close()

    def _new(self, host: Host, address: Address) -> socket.socket:
        sock = nonblocking(host, address, socket.SOCK_DGRAM)
        sock.connect(address)
        return sock

    async def ask_anew(self, host: Host, address: Address) -> str:
        """The pod that answers somebody new: nobody else has had its port, whose flow might be there."""
        self._others.append(self._new(host, address))
        return (await answer(self._others[-1])).decode()

    async def who_answers(self, host: Host, address: Address, packet: Packet) -> str:
        """The pod, or REJECT or DROP."""
        if (host, address) not in self._sockets:
            self._sockets[host, address] = self._new(host, address)
        is_dropped = packet.outcome == {"DROP"}
        try:
            async with asyncio.timeout(SILENT_FOR_S if is_dropped else ANSWERED_WITHIN_S):
                return (await answer(self._sockets[host, address])).decode()
        except ConnectionRefusedError:
            return "REJECT"
        except PermissionError:  # on its way out of the node
            return "DROP" if is_dropped else "REJECT"
        except TimeoutError:
            return "DROP"


async def wrong(
    stage: Stage,
    clients: Clients,
    scenario: Scenario,
    packet: Packet,
    protocol: str,
    *,
    family: int,
    sticky: bool,
) -> str:
    """What is wrong with the fate of a packet; empty when nothing is."""
    host, address = host_of(stage, packet.origin), scenario.address(packet.target, family, protocol)
    words = f"{scenario.name}: {packet.origin} -> {packet.target}, IPv{family} {protocol}: "
    if scenario.keeps_port and protocol == "UDP":
        fate = await clients.who_answers(host, address, packet)
        return "" if fate in packet.outcome else f"{words}{fate}, not {set(packet.outcome)}"

    async def who() -> str:
        if protocol == "UDP" and len(scenario.steps) > 1:
            return await clients.ask_anew(host, address)
        return await who_answers(host, address, protocol)

    try:
        if packet.outcome == {"REJECT"}:
            refused = is_refused if protocol == "TCP" else datagram_is_refused
            return "" if await refused(host, address) else f"{words}not refused"
        if packet.outcome == {"DROP"}:
            return "" if await gets_no_answer(host, address, protocol) else f"{words}answered or refused"
        async with asyncio.timeout(ANSWERED_WITHIN_S):
            seen = await all_who_answer(who, packet.outcome)
    except (OSError, TimeoutError) as error:
        if isinstance(error, PermissionError) and refused_on_output(stage, packet, protocol):
            return ""
        return f"{words}{type(error).__name__} {error}, not {set(packet.outcome)}"
    fine = len(seen) == 1 and seen <= packet.outcome if sticky else seen == packet.outcome
    return "" if fine else f"{words}{seen}, not {set(packet.outcome)}"


async def put(stage: Stage, proxy: ProxyProcess, objects: list[Manifest], number: int) -> None:
    """Have it serve these objects, and no others."""
    mark = service("zz-step", [{"name": "web", "port": 1 + number}], clusterIP="172.30.255.1")
    stage.write([*objects, mark])

    async def is_programmed() -> bool:
        marks = [row["port"] for row in await proxy.services() if row["name"] == "zz-step"]
        if marks != [1 + number]:
            return False
        # Asked for only now: all of it has come, and is programmed or not.
        queued_s, programmed_s = [
            await proxy.metric(f"kubeproxy_sync_proxy_rules_last_{name}_seconds", ip_family="IPv4")
            for name in ("queued_timestamp", "timestamp")
        ]
        return programmed_s > queued_s

    await eventually(is_programmed, f"step {number}")


async def astray(
    stage: Stage, proxy: ProxyProcess, dressed: Callable[[list[Manifest]], list[Manifest]] = list
) -> list[str]:
    """Play all scenarios, whose objects the proxy is given as they are `dressed`; a line for each packet that
    does not go where it should."""
    scenarios, misses = load_all(), []
    gate = asyncio.Semaphore(AT_ONCE)
    clients = Clients()

    async def check(scenario: Scenario, step: Step, family: int, protocol: str) -> list[str]:
        async with gate:
            return [
                await wrong(stage, clients, scenario, packet, protocol, family=family, sticky=step.sticky)
                for packet in step.packets
            ]

    with clients:
        for number in range(max(len(scenario.steps) for scenario in scenarios)):
            now = [thing for scenario in scenarios for thing in scenario.step(number).objects]
            await put(stage, proxy, [node_object(), *dressed(now)], number)
            found = await asyncio.gather(
                *(
                    check(scenario, scenario.steps[number], family, protocol)
                    for scenario in scenarios
                    if number < len(scenario.steps)
                    for family in (4, 6)
                    for protocol in ("TCP", "UDP")
                )
            )
            misses += [f"step {number + 1}: {line}" for lines in found for line in lines if line]
    return misses


@pytest.mark.timeout(180)
async def test_packets_go_where_they_should(stage: Stage) -> None:
    async with stage.proxy([node_object()], "--hostname-override", NODE) as proxy:
        misses = await astray(stage, proxy)
    assert not misses, "\n".join(misses)
