"""Every scenario of cluster DNS over real sockets: by UDP, and by TCP."""

import asyncio

import dns.asyncquery
import dns.message
import pytest

from tests.dns_scenario import DnsScenario, Expected, load_all
from tests.loop.conftest import free_port
from tests.loop.dns.rig import PATIENCE_S, running, upstream


@pytest.mark.parametrize("scenario", load_all(), ids=lambda one: one.name)
async def test_scenario(scenario: DnsScenario):
    address = ("127.0.0.1", free_port())
    async with upstream(*scenario.upstream) as above:
        servers = [above.address] if scenario.upstream else [address]  # itself is left out: there is none
        settings = {"domain": scenario.domain, "pods": scenario.pods}
        async with running(*scenario.objects, listen=(address,), upstream=servers, **settings) as server:
            server.dns.responder.ready = scenario.complete
            for expected in scenario.queries:
                await asyncio.gather(*(ask(address, expected, way) for way in ("udp", "tcp")))


async def ask(address, expected: Expected, way: str) -> None:
    asked = dns.message.make_query(expected.name, expected.kind)
    send = dns.asyncquery.udp if way == "udp" else dns.asyncquery.tcp
    expected.check(await send(asked, address[0], PATIENCE_S, address[1]))
