"""Which way packets go: the address that was asked answers, and what is not served is refused."""

import shutil

import pytest

from tests.netns.dns.conftest import dns_server
from uproxy.kit.lab import Lab

NAME = "web.default.svc.cluster.local"

pytestmark = pytest.mark.skipif(shutil.which("dig") is None, reason="dig is not installed (dnsutils)")


def dig(host, server: str, *words: str) -> str:
    """What dig prints; it takes no answer from another address than it asked."""
    return host.run("dig", f"@{server}", "+time=10", "+tries=1", NAME, *words, check=False).stdout


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_a_wildcard_answers_from_any_of_the_nodes_addresses(lab: Lab, transport):
    lab.node.run("ip", "address", "replace", "169.254.20.10/32", "dev", "lo")
    lab.node.run("ip", "address", "replace", "fd00:10:20::10/128", "dev", "lo")
    with dns_server(lab.node, "0.0.0.0:53", "[::]:53"):
        for server in ("10.244.0.1", lab.node.ip4, "169.254.20.10", "fd00:10:244::1", "fd00:10:20::10"):
            assert "172.30.0.1" in dig(lab.pods[0], server, transport, "+short"), server


def test_a_stranger_is_refused(lab: Lab):
    stranger = "203.0.113.7"
    lab.client.run("ip", "address", "replace", f"{stranger}/32", "dev", "lo")
    lab.node.run("ip", "route", "replace", stranger, "via", lab.client.ip4)
    with dns_server(lab.node, "0.0.0.0:53"):
        assert "status: REFUSED" in dig(lab.client, lab.node.ip4, "-b", stranger)
        assert "status: NOERROR" in dig(lab.client, lab.node.ip4)
        assert "172.30.0.1" not in dig(lab.client, lab.node.ip4, "-b", stranger, "+tcp")


def test_both_families_on_one_port_with_addresses_of_their_own(lab: Lab):
    with dns_server(lab.node, f"{lab.node.ip4}:53", f"[{lab.node.ip6}]:53") as said:
        assert [address[1] for address in said["addresses"]] == [53, 53]
        for server in (lab.node.ip4, lab.node.ip6):
            assert "172.30.0.1" in dig(lab.client, server, "+short")
