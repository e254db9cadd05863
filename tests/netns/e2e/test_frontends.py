"""Every address that a Service is reached at, and those at which it is not."""

import errno

import pytest

from tests.netns.e2e.callers import answer, ask, datagrams, is_refused
from tests.netns.e2e.servers import WHO
from tests.netns.e2e.stage import Stage, addresses, node_ports, web

NODE_PORT = {"type": "NodePort", "ports": node_ports(tcp=30080, udp=30053)}
EXTERNAL = ("203.0.113.7", "2001:db8::7")
INGRESS = ("203.0.113.8", "2001:db8::8")
PROXIED = ("203.0.113.9", "2001:db8::9")


def load_balancer(stage: Stage) -> list[dict]:
    objects = web(stage.pods, type="LoadBalancer", externalIPs=list(EXTERNAL))
    vips = [{"ip": ip, "ipMode": "VIP"} for ip in INGRESS]
    proxied = [{"ip": ip, "ipMode": "Proxy"} for ip in PROXIED]
    objects[0]["status"] = {"loadBalancer": {"ingress": vips + proxied}}
    return objects


async def test_node_port_is_served_at_the_addresses_of_the_node(stage: Stage) -> None:
    async with stage.proxy(web(stage.pods, **NODE_PORT)):
        for caller in stage.callers:
            for ip in (stage.node.ip4, stage.node.ip6, "10.244.0.1", "fd00:10:244::1"):
                assert (await ask(caller, (ip, 30080))).startswith("pod")
                with datagrams(caller, (ip, 30053)) as sock:
                    assert (await answer(sock, WHO)).startswith(b"pod")


async def test_node_port_on_loopback_is_left_alone_by_redirects(stage: Stage) -> None:
    async with stage.proxy(web(stage.pods, **NODE_PORT)) as proxy:
        for ip in ("127.0.0.1", "::1"):
            with datagrams(stage.node, (ip, 30053)) as sock:
                if stage.way.redirects:
                    assert await is_refused(stage.node, (ip, 30080))
                    sock.send(WHO)
                else:
                    assert (await ask(stage.node, (ip, 30080))).startswith("pod")
                    assert (await answer(sock)).startswith(b"pod")
        # One that is answered came after those above, so these have been seen and passed over.
        for ip in (stage.node.ip4, stage.node.ip6):
            with datagrams(stage.node, (ip, 30053)) as sock:
                await answer(sock)
        assert await proxy.metric("uproxy_udp_flows_total") == (2 if stage.way.redirects else 4)


async def test_external_and_load_balancer_addresses_are_served(stage: Stage) -> None:
    async with stage.proxy(load_balancer(stage)) as proxy:
        for ip in (*EXTERNAL, *INGRESS):
            assert (await ask(stage.client, (ip, 80))).startswith("pod")
            with datagrams(stage.client, (ip, 53)) as sock:
                assert (await answer(sock)).startswith(b"pod")
        row = await proxy.row("web")
        assert {addresses((ip, 80)) for ip in (*EXTERNAL, *INGRESS)} < set(row["addresses"])


async def test_address_of_a_load_balancer_that_proxies_is_not_captured(stage: Stage) -> None:
    async with stage.proxy(load_balancer(stage)) as proxy:
        row = await proxy.row("web")
        for ip in PROXIED:
            assert addresses((ip, 80)) not in row["addresses"]
            with pytest.raises(OSError, match="Connect call failed") as caught:
                await ask(stage.client, (ip, 80))
            assert caught.value.errno == errno.ENETUNREACH  # as the node says, which has no default route
