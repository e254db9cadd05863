"""`--nodeport-addresses`: which of the node's addresses serve NodePorts."""

import pytest

from tests.netns.e2e.callers import answer, ask, datagram_is_refused, datagrams, is_refused
from tests.netns.e2e.servers import WHO
from tests.netns.e2e.stage import Stage, node_ports, web
from tests.scenario import NODE, node_object
from uproxy.kit.lab import POD_GATEWAY4

SPEC = {"type": "NodePort", "ports": node_ports(tcp=30080, udp=30053)}


async def served(host, ip: str) -> bool:
    """Both protocols are, or neither."""
    if await is_refused(host, (ip, 30080)):
        assert await datagram_is_refused(host, (ip, 30053))
        return False
    assert (await ask(host, (ip, 30080))).startswith("pod")
    with datagrams(host, (ip, 30053)) as sock:
        assert (await answer(sock, WHO)).startswith(b"pod")
    return True


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param("10.200.0.0/16", {"10.200.0.1"}, id="network"),
        pytest.param("primary", {"10.200.0.1", "fd00:10:200::1"}, id="primary"),
        pytest.param("localhost,10.200.0.1/32", {"127.0.0.1", "10.200.0.1"}, id="localhost"),
    ],
)
async def test_only_the_addresses_given_serve_node_ports(
    stage: Stage, given: str, expected: set[str]
) -> None:
    objects = [node_object(), *web(stage.pods, **SPEC)]
    flags = ("--nodeport-addresses", given, "--hostname-override", NODE)
    async with stage.proxy(objects, *flags):
        asked = ("10.200.0.1", POD_GATEWAY4, "127.0.0.1") + (
            ("fd00:10:200::1",) if given == "primary" else ()
        )
        found = {ip for ip in asked if await served(stage.node, ip)}
        assert found == expected
        assert await served(stage.client, "10.200.0.1")
