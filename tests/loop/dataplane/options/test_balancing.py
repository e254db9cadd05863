"""Every policy sees what is open at the moment of a pick."""

import asyncio
import socket
from collections import Counter

from tests.loop.conftest import free_port
from tests.loop.dataplane.options.peers import Keeper, call
from tests.loop.dataplane.test_udp import UdpClient, UdpServer
from tests.loop.rig import PATIENCE_S, until
from uproxy.model.names import Protocol
from uproxy.model.options import Balancing, Options

VIP = "127.96.0.9"
LEAST = Options(balancing=Balancing.LEAST_CONNECTIONS)


async def test_least_connections_fills_who_has_fewest_at_this_moment(rig):
    servers = [Keeper(rig, name) for name in "abc"]
    vip = (VIP, free_port(VIP))
    await rig.serve(vip, [server.backend for server in servers], options=LEAST)
    callers = [await call(rig, vip) for _ in range(9)]
    assert Counter(name for name, _ in callers) == {"a": 3, "b": 3, "c": 3}
    for name, caller in callers:
        if name == "b":
            caller.close()
    for connection in servers[1].connections:
        connection.close()
    states = rig.dataplane.ports[next(iter(rig.dataplane.ports))].states.values()
    await until(lambda: list(rig.relay.loads(list(states))) == [3, 0, 3])
    assert [(await call(rig, vip))[0] for _ in range(3)] == ["b", "b", "b"]


async def test_changing_the_policy_keeps_connections_and_the_standing_of_endpoints(rig):
    servers = [Keeper(rig, name) for name in "ab"]
    vip = (VIP, free_port(VIP))
    backends = [server.backend for server in servers]
    programmed = await rig.serve(vip, backends)
    name, caller = await call(rig, vip)
    kept = servers["ab".index(name)].connections[0]
    programmed.states[backends[0]].failed(rig.context.now() + 1e6)
    for policy in Balancing:
        programmed = await rig.serve(vip, backends, options=Options(balancing=policy))
        assert {(await call(rig, vip))[0] for _ in range(4)} == {"b"}
    await caller.write(b"still here")
    assert (
        await asyncio.wait_for(asyncio.get_running_loop().sock_recv(kept, 100), PATIENCE_S) == b"still here"
    )


async def test_flows_are_balanced_by_their_number(rig):
    servers = [UdpServer(rig, name) for name in "abc"]
    vip = (VIP, free_port(VIP, socket.SOCK_DGRAM))
    programmed = await rig.serve(vip, [server.backend for server in servers], Protocol.UDP, options=LEAST)
    for _ in range(9):
        await UdpClient(rig, vip).ask()
    assert [state.active for state in programmed.states.values()] == [3, 3, 3]
    for flow in [flow for flow in rig.dataplane.flows.table if flow.backend.backend == servers[1].backend]:
        rig.dataplane.flows.table.remove(flow.key)
        rig.dataplane.flows.release(flow)
    assert {await UdpClient(rig, vip).ask() for _ in range(3)} == {b"b:?"}


async def test_a_client_keeps_its_endpoint_by_its_address_alone(rig):
    servers = [Keeper(rig, name) for name in "abcde"]
    vip = (VIP, free_port(VIP))
    maglev = Options(balancing=Balancing.MAGLEV)
    programmed = await rig.serve(vip, [server.backend for server in servers], options=maglev)
    expected = next(iter(programmed.routes)).balancer.pick("127.0.0.1", 0.0).backend
    reached = {(await call(rig, vip))[0] for _ in range(10)}
    assert reached == {server.name for server in servers if server.backend == expected}
