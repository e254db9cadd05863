"""healthCheckNodePort of a whole proxy, asked from outside, on the addresses that are to serve it."""

import pytest

from tests.netns.e2e.stage import Stage, node_ports, way, web
from tests.proxy_process import Address, connected, eventually
from uproxy.kit.lab import Host

PORT = 30999
LOCAL = {
    "type": "LoadBalancer",
    "externalTrafficPolicy": "Local",
    "healthCheckNodePort": PORT,
    "ports": node_ports(tcp=30080, udp=30053),
}


async def health(host: Host, address: Address) -> tuple[int, int]:
    """The status and the number of local endpoints; zeros when nobody answers."""
    try:
        async with connected(host, address) as (reader, writer):
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            head, _, _ = (await reader.read(-1)).decode().partition("\r\n\r\n")
    except OSError:
        return 0, 0
    weight = head.partition("X-Load-Balancing-Endpoint-Weight: ")[2].split()[0]
    return int(head.split()[1]), int(weight)


@pytest.mark.parametrize(
    "way", [way("bind", "python"), way("redirect-nft", "native-1")], indirect=True, ids=str
)
async def test_load_balancers_are_told_on_the_addresses_chosen(stage: Stage) -> None:
    outside, towards_pods = (stage.node.ip4, PORT), ("10.244.0.1", PORT)
    chosen = ("--nodeport-addresses", "10.200.0.0/16")
    async with stage.proxy(web(stage.pods, **LOCAL), *chosen):
        assert await health(stage.client, outside) == (200, 3)
        assert await health(stage.client, towards_pods) == (0, 0)
        stage.write(web(stage.pods[:1], **LOCAL))

        async def one() -> bool:
            return await health(stage.client, outside) == (200, 1)

        await eventually(one, "one endpoint fewer")
        stage.write(web([], **LOCAL))

        async def none() -> bool:
            return await health(stage.client, outside) == (503, 0)

        await eventually(none, "no endpoint any more")
        stage.write(web(stage.pods))

        async def closed() -> bool:
            return await health(stage.client, outside) == (0, 0)

        await eventually(closed, "the port's end")


@pytest.mark.parametrize("way", [way("bind", "python")], indirect=True, ids=str)
async def test_a_port_that_somebody_has_is_the_services_problem(stage: Stage) -> None:
    with stage.node.socket() as taken:
        taken.bind(("0.0.0.0", PORT))
        taken.listen()
        async with stage.proxy(web(stage.pods, **LOCAL)) as proxy:
            reason = f"0.0.0.0:30080/TCP: health check port {PORT}: address already in use"
            assert (await proxy.row("web"))["status"] == f"partial: {reason}"
            taken.close()

            async def solved() -> bool:
                return (await proxy.row("web"))["status"] == "ok"

            await eventually(solved, "the port")
            assert await health(stage.client, (stage.node.ip4, PORT)) == (200, 3)
