"""What clients of a Service that IPVS carries see, also when endpoints come and go."""

import asyncio
import socket
import struct
from dataclasses import replace
from ipaddress import ip_network
from itertools import product

import pytest

from tests.kernel.inside.stage import (
    ANY,
    EXTERNAL,
    NODE_PORT,
    UDP,
    VIPS,
    Stage,
    are_counted,
    even,
    run,
    spread,
    who,
)
from tests.netns.e2e.callers import answer, ask, datagrams, echoes, name_from, who_answers
from tests.proxy_process import connected, eventually
from uproxy.handoff.ipvs import SCHEDULERS, IpvsHandoff
from uproxy.kit.lab import Host
from uproxy.model.frontend import Backend


async def test_what_has_drained_is_removed_with_its_counts(stage: Stage, handoff: IpvsHandoff) -> None:
    left, gone = stage.pods[1:], stage.backend(stage.pods[0])
    await handoff.put([stage.port(EXTERNAL, stage.pods[:1])])
    async with connected(stage.client, (EXTERNAL, 80)) as (reader, writer):
        await name_from(reader)
        await handoff.put([stage.port(EXTERNAL, left)])
        await handoff.take([stage.port(EXTERNAL).name])
        assert await who(stage.client, EXTERNAL) == "relay"
        assert await echoes(reader, writer, bytes(5000))
        # A reset: the kernel remembers it for 10 s, other ends for two minutes.
        linger = struct.pack("=II", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    assert (await handoff.look()).open != {}
    forgotten: list[Backend] = []
    last = {}

    async def is_removed() -> bool:
        last.update({backend: its for (_, backend), its in (await handoff.look()).counts.items()})
        forgotten.extend(backend for _, backend in await handoff.tend())
        return run("ipvsadm -S -n") == ""

    await eventually(is_removed, "nothing left of it")
    await is_removed()
    await is_removed()
    assert last[gone].connections == 1
    assert last[gone].bytes_to_backend == 5000
    assert gone in forgotten
    assert (await handoff.look()).counts == {}
    assert "118" not in run("ip route show table local protocol 118")


@pytest.mark.parametrize("vip", VIPS)
async def test_round_robin_is_exact_for_whoever_calls_and_pods_see_the_node(
    stage: Stage, handoff: IpvsHandoff, vip: str
) -> None:
    assert await who(stage.client, vip) == "relay"
    await handoff.put([stage.port(vip)])
    for caller in (stage.client, stage.node, stage.pods[0].host):
        assert await spread(caller, vip, 12) == even(stage, 4), caller.name
    seen = {(await ask(stage.client, (vip, 80))).split()[-1] for _ in stage.pods}
    assert seen <= {"10.244.0.1", "fd00:10:244::1"}
    await are_counted(handoff, 13, 13, 13)
    async with connected(stage.client, (vip, 80)) as (reader, writer):
        await name_from(reader)
        await are_counted(handoff, 13, 13, 14)
        before = (await handoff.look()).counts
        assert await echoes(reader, writer, bytes(1000))
        assert (await handoff.look()).open[stage.port(vip).name] == 1

        async def are_counted_too() -> bool:
            after = (await handoff.look()).counts
            grown = [tuple(a - b for a, b in zip(after[key], before[key], strict=True)) for key in after]
            return sorted(grown)[-1] == (0, 1000, 1000)

        await eventually(are_counted_too, "1000 bytes each way")
    await handoff.take([stage.port(vip).name])
    assert await spread(stage.client, vip, 6) == {"relay": 6}
    assert await spread(stage.node, vip, 3) == {"relay": 3}


@pytest.mark.parametrize("vip", VIPS)
async def test_pods_of_this_node_see_clients_from_outside(
    stage: Stage, handoff: IpvsHandoff, vip: str
) -> None:
    await handoff.begin([ip_network("10.244.0.0/24"), ip_network("fd00:10:244::/64")])
    port = stage.port(vip)
    await handoff.put([replace(port, here=frozenset(backend.ip for backend in port.vips[0].backends))])

    async def seen(caller: Host) -> set[str]:
        return {(await ask(caller, (vip, 80))).split()[-1] for _ in stage.pods}

    client, gateways = stage.client, {"10.244.0.1", "fd00:10:244::1"}
    assert await seen(client) <= {client.ip4, client.ip6}
    assert await seen(stage.node) <= gateways
    assert await seen(stage.pods[0].host) <= gateways
    await handoff.put([port])  # as far as one knows, they are elsewhere
    assert await seen(client) <= gateways
    assert "10.244" not in run("ipset list UPROXY_IPVS_HERE4")


async def test_external_addresses_and_node_ports(stage: Stage, handoff: IpvsHandoff) -> None:
    await handoff.put([stage.port(EXTERNAL)])
    assert await spread(stage.client, EXTERNAL, 6) == even(stage, 2)
    assert await spread(stage.node, EXTERNAL, 3) == even(stage, 1)
    await handoff.put([stage.port(any_ip) for any_ip in ANY])
    assert await who(stage.client, EXTERNAL) == "relay"  # it is the same Service port, which has lost it
    for ip in (stage.node.ip4, stage.node.ip6):
        assert await spread(stage.client, ip, 6, NODE_PORT) == even(stage, 2)
        assert await spread(stage.node, ip, 3, NODE_PORT) == even(stage, 1)
    run("ip address add 10.200.0.77/24 dev client")
    assert await who(stage.client, "10.200.0.77", NODE_PORT) == "relay"
    await handoff.tend()
    assert await spread(stage.client, "10.200.0.77", 3, NODE_PORT) == even(stage, 1)
    run("ip address del 10.200.0.77/24 dev client")
    await handoff.tend()
    assert "10.200.0.77" not in run("ipset save UPROXY_IPVS4")


async def test_affinity_and_schedulers(stage: Stage, handoff: IpvsHandoff) -> None:
    await handoff.put([stage.port(VIPS[0], affinity_timeout_s=60)])
    (chosen,) = await spread(stage.client, VIPS[0], 9)
    assert "-s rr -p 60" in run("ipvsadm -S -n")
    left = [pod for pod in stage.pods if pod.name != chosen]
    await handoff.put([stage.port(VIPS[0], left, affinity_timeout_s=60)])
    (other,) = await spread(stage.client, VIPS[0], 9)
    assert other != chosen
    await handoff.put([stage.port(VIPS[0])])
    assert len(await spread(stage.client, VIPS[0], 9)) == 3
    for scheduler in SCHEDULERS:
        await handoff.put([stage.port(VIPS[0], scheduler=scheduler)])
        assert f"-A -t 10.96.0.1:80 -s {scheduler}\n" in run("ipvsadm -S -n")
        assert await who(stage.client, VIPS[0]) in even(stage, 0)


async def test_flows_come_and_go(stage: Stage, handoff: IpvsHandoff) -> None:
    for caller, vip in product((stage.client, stage.node), VIPS):
        with datagrams(caller, (vip, 53)) as sock:
            assert await answer(sock) == b"relay"
            await handoff.put([stage.port(vip, protocol=UDP)])
            chosen = (await answer(sock)).split()[0].decode()
            assert chosen in even(stage, 0)
            assert (await answer(sock)).split()[0].decode() == chosen
            left = [pod for pod in stage.pods if pod.name != chosen]
            await handoff.put([stage.port(vip, left, UDP)])

            async def moved(sock=sock, chosen=chosen) -> bool:
                try:
                    async with asyncio.timeout(0.2):
                        return (await answer(sock)).split()[0].decode() != chosen
                except (TimeoutError, PermissionError):
                    return False  # that datagram told IPVS

            await eventually(moved, "another pod")
            await handoff.put([stage.port(vip, protocol=UDP)])
            seen = {(await who_answers(caller, (vip, 53), "UDP")).split()[0] for _ in stage.pods}
            assert seen == even(stage, 0).keys()
            await handoff.take([stage.port(vip, protocol=UDP).name])
            assert "udp" not in run("ipvsadm -S -n").lower()

            async def came_back(sock=sock) -> bool:
                try:
                    async with asyncio.timeout(0.2):
                        return await answer(sock) == b"relay"
                except (TimeoutError, PermissionError):
                    return False

            await eventually(came_back, "the relay")


async def test_an_endpoint_that_goes_keeps_its_connections_and_comes_back(
    stage: Stage, handoff: IpvsHandoff
) -> None:
    vip = VIPS[0], 80
    await handoff.put([stage.port(VIPS[0])])
    async with connected(stage.client, vip) as (reader, writer):
        name = (await name_from(reader)).split()[0]
        gone = next(pod for pod in stage.pods if pod.name == name)
        left = [pod for pod in stage.pods if pod is not gone]
        await handoff.put([stage.port(VIPS[0], left)])
        assert await spread(stage.client, VIPS[0], 6) == {pod.name: 3 for pod in left}
        await handoff.tend()
        assert await echoes(reader, writer)
        await handoff.put([stage.port(VIPS[0])])
        assert await spread(stage.client, VIPS[0], 6) == even(stage, 2)
        assert await echoes(reader, writer)
        await handoff.put([stage.port(VIPS[0], left)])
    counts = (await handoff.look()).counts
    forgotten: list[Backend] = []

    async def is_removed() -> bool:
        now = (await handoff.look()).counts
        assert all(now[key] >= counts[key] for key in counts.keys() & now.keys())
        forgotten.extend(backend for _, backend in await handoff.tend())
        return str(stage.backend(gone)) not in run("ipvsadm -S -n")

    # What other connections left of it in TIME_WAIT takes two minutes.
    assert stage.backend(gone) in {backend for _, backend in counts}
    assert str(stage.backend(gone)) in run("ipvsadm -S -n")
    assert not await is_removed()
    assert forgotten == []
