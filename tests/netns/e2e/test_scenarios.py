"""Every scenario, with real packets: all Services at once, in one proxy, and each packet sent."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from tests.netns.e2e.callers import all_who_answer, datagram_is_refused, gets_no_answer, is_refused
from tests.netns.e2e.stage import Stage, Way, way
from tests.scenario import NODE, Packet, Scenario, load_all, node_object
from uproxy.dataplane.native_relay import engine_or_reason
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
        for pod in made.pods:
            await pod.listen_tcp()
            pod.listen_udp()
        yield made
        for pod in made.pods:
            pod.kill()


def host_of(stage: Stage, origin: str) -> Host:
    if origin.startswith("pod"):
        return stage.lab.pods[int(origin[3:]) - 1]
    return {"outside": stage.client, "node": stage.node}[origin]


def refused_on_output(stage: Stage, packet: Packet, protocol: str) -> bool:
    """Whether a datagram is refused on its way out of the node, as it has no local route."""
    external = packet.target in ("load-balancer", "external-ip")
    return (
        stage.way.name.startswith("tproxy")
        and (packet.origin, protocol, external) == ("node", "UDP", True)
        and packet.outcome == {"REJECT"}
    )


async def wrong(stage: Stage, scenario: Scenario, packet: Packet, family: int, protocol: str) -> str:
    """What is wrong with the fate of a packet; empty when nothing is."""
    host, address = host_of(stage, packet.origin), scenario.address(packet.target, family, protocol)
    words = f"{scenario.name}: {packet.origin} -> {packet.target}, IPv{family} {protocol}: "
    try:
        if packet.outcome == {"REJECT"}:
            refused = is_refused if protocol == "TCP" else datagram_is_refused
            return "" if await refused(host, address) else f"{words}not refused"
        if packet.outcome == {"DROP"}:
            return "" if await gets_no_answer(host, address, protocol) else f"{words}answered or refused"
        async with asyncio.timeout(ANSWERED_WITHIN_S):
            seen = await all_who_answer(host, address, protocol, packet.outcome)
    except (OSError, TimeoutError) as error:
        if isinstance(error, PermissionError) and refused_on_output(stage, packet, protocol):
            return ""
        return f"{words}{type(error).__name__} {error}, not {set(packet.outcome)}"
    fine = len(seen) == 1 and seen <= packet.outcome if scenario.sticky else seen == packet.outcome
    return "" if fine else f"{words}{seen}, not {set(packet.outcome)}"


async def astray(stage: Stage, scenarios: list[Scenario]) -> list[str]:
    """A line for each packet that does not go where it should."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def check(scenario: Scenario) -> list[str]:
        async with gate:
            return [
                await wrong(stage, scenario, packet, family, protocol)
                for packet in scenario.packets
                for family in (4, 6)
                for protocol in ("TCP", "UDP")
            ]

    found = await asyncio.gather(*(check(scenario) for scenario in scenarios))
    return [line for lines in found for line in lines if line]


@pytest.mark.timeout(180)
async def test_packets_go_where_they_should(stage: Stage) -> None:
    scenarios = load_all()
    objects = [node_object(), *(thing for scenario in scenarios for thing in scenario.objects)]
    async with stage.proxy(objects, "--hostname-override", NODE):
        misses = await astray(stage, scenarios)
    assert not misses, "\n".join(misses)
