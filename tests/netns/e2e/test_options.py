"""Options that depend on how traffic is captured: who refuses, and what is known of the client."""

import asyncio
import socket

import pytest

from tests.netns.e2e.callers import ask, connected, is_refused, name_from
from tests.netns.e2e.servers import TCP_PORT, Greeter
from tests.netns.e2e.stage import WEB, Stage, node_ports, web
from tests.proxy_header import FIXED_BYTES, Header, length, parse
from tests.proxy_process import PATIENCE_S, eventually

NODE_PORT = 30080


def annotated(objects, **annotations: str):
    """The Service, which is first, with annotations of ours."""
    objects[0]["metadata"]["annotations"] = {
        f"uproxy.dev/{name.replace('_', '-')}": value for name, value in annotations.items()
    }
    return objects


async def test_clients_are_held_instead_of_refused_and_refused_again_without_the_option(stage: Stage) -> None:
    async with stage.proxy(web([])):
        assert await is_refused(stage.client, WEB[0])
        stage.write(annotated(web([]), hold="60s"))

        async def accepted() -> bool:
            return not await is_refused(stage.client, WEB[0])

        await eventually(accepted, "no refusal")
        asked = [asyncio.ensure_future(ask(caller, vip)) for caller in stage.callers for vip in WEB]
        stage.write(annotated(web(stage.pods[:1]), hold="60s"))
        assert await asyncio.gather(*asked) == ["pod1"] * 4
        stage.write(web([]))

        async def refused() -> bool:
            return await is_refused(stage.client, WEB[0])

        await eventually(refused, "a refusal")


async def header_of(pod: Greeter, family: int, caller, vip) -> tuple[Header, tuple[str, int]]:
    """What a pod is told of a client, and the client's own address."""
    listener = pod.host.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((pod.host.ip4 if family == socket.AF_INET else pod.host.ip6, TCP_PORT))
    listener.listen()
    listener.setblocking(False)
    loop = asyncio.get_running_loop()
    try:
        async with connected(caller, vip) as (_, writer), asyncio.timeout(PATIENCE_S):
            server, _ = await loop.sock_accept(listener)
            with server:
                data = b""
                while len(data) < FIXED_BYTES or len(data) < length(data):
                    data += await loop.sock_recv(server, 1000)
            assert parse(data)[1] == b""
            return parse(data)[0], writer.get_extra_info("sockname")[:2]
    finally:
        listener.close()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
async def test_the_pod_is_told_the_clients_address_and_the_vip(stage: Stage, family) -> None:
    pod = stage.pods[0]
    pod.refuse_tcp()
    vip = WEB[0] if family == socket.AF_INET else WEB[1]
    async with stage.proxy(annotated(web([pod]), proxy_protocol="v2")):
        for caller in stage.callers:
            header, client = await header_of(pod, family, caller, vip)
            assert header == Header(client, vip)


async def test_on_a_node_port_the_pod_is_told_the_nodes_address(stage: Stage) -> None:
    pod = stage.pods[0]
    pod.refuse_tcp()
    objects = web([pod], type="NodePort", ports=node_ports(NODE_PORT, NODE_PORT))
    vip = (stage.node.ip4, NODE_PORT)
    async with stage.proxy(annotated(objects, proxy_protocol="v2")):
        header, client = await header_of(pod, socket.AF_INET, stage.client, vip)
        assert header == Header(client, vip)


async def test_connections_of_a_removed_pod_are_reset(stage: Stage) -> None:
    objects = annotated(web(stage.pods[:2]), removed_endpoints="reset")
    async with stage.proxy(objects), connected(stage.client, WEB[0]) as (reader, _):
        name = await name_from(reader)
        others = [pod for pod in stage.pods[:2] if pod.name != name]
        stage.write(annotated(web(others), removed_endpoints="reset"))
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), PATIENCE_S)
