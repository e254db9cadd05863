"""One lab for a file, and new servers for each test."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.kernel.inside.stage import ANY, EXTERNAL, NODE_PORT, TCP, VIPS, Stage, run
from tests.netns.e2e.servers import TCP_PORT
from uproxy.handoff.ipvs import IpvsHandoff
from uproxy.kernel.conntrack import Conntrack
from uproxy.kit.lab import Lab, _set_namespace
from uproxy.model.names import Vip
from uproxy.steering.iptables import IptablesRules
from uproxy.steering.landing import LANDING
from uproxy.steering.rules import RedirectPorts, Rule, Verdict


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """All threads that begin meanwhile, and all programs, are on the node. It captures, by iptables."""
    with Lab() as made:
        _set_namespace(Path("/run/netns", made.node.name))
        for where in (*VIPS, *(landing.network for landing in LANDING.values())):
            run(f"ip route replace local {where} dev lo table local protocol 117")
        vips = [Vip(ip_address(vip), 80, TCP) for vip in (*VIPS, EXTERNAL)]
        node_ports = [Vip(ip_address(ip), NODE_PORT, TCP) for ip in ANY]
        rules = {vip: Rule(Verdict.REDIRECT) for vip in (*vips, *node_ports)}
        asyncio.run(IptablesRules(RedirectPorts(TCP_PORT, TCP_PORT)).replace(rules, ()))
        yield made
        _set_namespace(Path("/proc/1/ns/net"))


@pytest.fixture
async def stage(lab: Lab) -> AsyncIterator[Stage]:
    """Everybody who answers."""
    made = Stage(lab)
    for one in (*made.pods, made.relay):
        await one.listen_tcp()
        one.listen_udp()
    yield made
    for one in (*made.pods, made.relay):
        one.kill()


@pytest.fixture
async def handoff(stage: Stage) -> AsyncIterator[IpvsHandoff]:
    made = IpvsHandoff(Conntrack())
    await made.begin(())
    yield made
    await made.close()
