"""Every scenario of cluster DNS, without sockets; what upstream has a part in is left to those with."""

import pytest

from tests.dns_scenario import DnsScenario, load_all
from tests.pure.dns.rig import Server


@pytest.mark.parametrize(
    "scenario", [one for one in load_all() if not one.upstream], ids=lambda one: one.name
)
@pytest.mark.parametrize("udp", [False, True])
def test_scenario(scenario: DnsScenario, udp: bool):
    server = Server(*scenario.objects, domain=scenario.domain, pods=scenario.pods, ready=scenario.complete)
    for expected in scenario.queries:
        expected.check(server.ask(expected.name, expected.kind, udp=udp, edns=True, payload=1232))


def test_there_are_scenarios():
    assert len(load_all()) > 20
