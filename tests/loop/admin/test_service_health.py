"""healthCheckNodePort, asked as a load balancer would."""

import socket
from dataclasses import replace
from ipaddress import ip_address, ip_network

import aiohttp
import pytest_asyncio

from tests.loop.conftest import free_port
from uproxy.admin.service_health import ServiceHealth, health_body
from uproxy.model.endpoint import Endpoint, EndpointSlice, SlicePort
from uproxy.model.events import Delete, Event, LocalAddresses, Upsert
from uproxy.model.names import NamespacedName, Protocol
from uproxy.model.node import Node
from uproxy.model.service import Service, ServicePort, ServiceType
from uproxy.state.addresses import AddressPlan
from uproxy.state.node_ports import EVERYWHERE, NodePortPlan
from uproxy.state.store import Store

WEB = NamespacedName("default", "web")
HERE = "here"
LOCALHOST = ip_address("127.0.0.1")


def service(port: int | None, key: NamespacedName = WEB) -> Service:
    """A load balancer's Service; without a port, its policy is Cluster."""
    return Service(
        key,
        (ServicePort("", Protocol.TCP, 80, 80, 30080),),
        ServiceType.LOAD_BALANCER,
        cluster_ips=(ip_address("172.30.0.1") + (key != WEB),),
        external_local=port is not None,
        health_check_node_port=port,
    )


def endpoints(*members: Endpoint) -> Upsert:
    ports = (SlicePort("", Protocol.TCP, 80),)
    return Upsert(EndpointSlice(NamespacedName("default", "web-1"), WEB, ports, members))


def member(ip: str, **conditions) -> Endpoint:
    return Endpoint(ip_address(ip), **{"node": HERE, **conditions})


class Rig:
    def __init__(self) -> None:
        plan = AddressPlan(ip_network("172.30.0.0/16"), loopback_only=False)
        self.store = Store(plan, HERE, node_ports=NodePortPlan((ip_network("127.0.0.0/8"),)))
        self.store.apply([LocalAddresses((LOCALHOST,))])
        self.healthy = True
        self.reported: list[tuple[NamespacedName, int, str]] = []
        self.target = ServiceHealth(
            self.store, lambda: self.healthy, lambda *what: self.reported.append(what)
        )

    async def apply(self, *events: Event):
        return await self.target.make(self.store.apply(events))


@pytest_asyncio.fixture
async def rig():
    made = Rig()
    made.store.apply([Upsert(Node(HERE))])
    yield made
    await made.target.close()


async def ask(port: int, path: str = "/", method: str = "GET", host: str = "127.0.0.1"):
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"http://{host}:{port}{path}") as response,
    ):
        return response.status, response.headers, await response.text()


def is_open(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


async def test_answers_are_kube_proxys(rig):
    port = free_port()
    assert await rig.apply(Upsert(service(port)), endpoints(member("10.0.0.1"), member("10.0.0.2"))) == {}
    status, headers, body = await ask(port)
    assert (status, body) == (200, health_body(WEB, 2, True))
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Load-Balancing-Endpoint-Weight"] == "2"
    assert (await ask(port, "/any/path?x", "POST"))[0] == 200


async def test_answers_follow_endpoints_and_the_proxys_health(rig):
    port = free_port()
    await rig.apply(Upsert(service(port)), endpoints(member("10.0.0.1", node="there")))
    assert (await ask(port))[::2] == (503, health_body(WEB, 0, True))
    await rig.apply(endpoints(member("10.0.0.1")))
    assert (await ask(port))[0] == 200
    await rig.apply(endpoints(member("10.0.0.1", ready=False, terminating=True)))
    status, headers, _ = await ask(port)
    assert (status, headers["X-Load-Balancing-Endpoint-Weight"]) == (503, "0")
    await rig.apply(endpoints(member("10.0.0.1")))
    rig.healthy = False
    assert (await ask(port))[::2] == (503, health_body(WEB, 1, False))


async def test_ports_come_and_go_with_services(rig):
    first, second = free_port(), free_port()
    await rig.apply(Upsert(service(first)))
    assert is_open(first)
    await rig.apply(Upsert(service(second)))
    assert (is_open(first), is_open(second)) == (False, True)
    await rig.apply(Upsert(service(None)))
    assert not is_open(second)
    await rig.apply(Upsert(service(second)))
    await rig.apply(Delete(service(second)))
    assert not is_open(second)


async def test_a_port_may_move_to_another_service_at_once(rig):
    port = free_port()
    await rig.apply(Upsert(service(port)))
    other = replace(
        service(port, NamespacedName("default", "other")), cluster_ips=(ip_address("172.30.0.2"),)
    )
    assert await rig.apply(Upsert(service(None)), Upsert(other)) == {}
    assert '"name": "other"' in (await ask(port))[2]


async def test_a_port_in_use_is_the_services_problem_told_once_and_tried_again(rig):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        problems = await rig.apply(Upsert(service(port)))
        assert [str(vip) for vip in problems] == ["127.0.0.1:30080/TCP"]
        assert set(problems.values()) == {f"health check port {port}: address already in use"}
        await rig.apply()
        assert rig.reported == [(WEB, port, "address already in use")]
    assert await rig.apply() == {}
    assert is_open(port)


async def test_a_port_is_open_on_every_address_or_on_none(rig):
    rig.store.apply([LocalAddresses((LOCALHOST, ip_address("127.0.0.2")))])
    with socket.create_server(("127.0.0.2", 0)) as taken:
        port = taken.getsockname()[1]
        await rig.apply(Upsert(service(port)))
        assert not is_open(port)
    await rig.apply()
    assert (await ask(port, host="127.0.0.2"))[0] == 503


async def test_everywhere_means_both_families(rig):
    rig.store._node_ports = EVERYWHERE
    port = free_port()
    assert await rig.apply(Upsert(service(port))) == {}
    assert (await ask(port))[0] == 503
    if has_ipv6():
        assert (await ask(port, host="[::1]"))[0] == 503


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


async def test_services_that_are_not_ours_have_no_port(rig):
    port = free_port()
    await rig.apply(Upsert(replace(service(port), proxy_name="other")))
    assert not is_open(port)
