import asyncio

import msgspec
import pytest

from tests.loop.admin.conftest import WEB
from tests.loop.conftest import free_port
from tests.loop.rig import until
from uproxy.admin.rows import Bytes, Counts, EndpointRow, ServiceRow
from uproxy.admin.view import services_view
from uproxy.model.events import Faulted, Upsert
from uproxy.model.faults import Fault
from uproxy.model.names import NamespacedName, Protocol
from uproxy.model.service import Service, ServicePort, ServiceType


def view(proxy):
    return services_view(proxy.store, proxy.dataplane, proxy.loop)


def fault(name):
    return Fault("web.yaml", 1, "Service", NamespacedName("default", name), "spec.ports", "is required")


async def test_a_served_port_is_a_row(proxy, echo):
    host, port = await proxy.serve_web(echo)
    assert view(proxy) == [
        ServiceRow(
            "default",
            "web",
            "ok",
            port,
            "http",
            "TCP",
            [f"{host}:{port}"],
            endpoints=[EndpointRow(f"127.0.0.1:{echo}", "ready", Counts())],
        )
    ]


async def test_counts_follow_a_connection(proxy, echo):
    reader, writer = await asyncio.open_connection(*await proxy.serve_web(echo))
    writer.write(b"hello")
    await reader.readexactly(5)
    (row,) = view(proxy)
    assert (row.connections, row.bytes) == (Counts(1, 1), Bytes(5, 5))
    assert row.endpoints[0].connections == Counts(1, 1)
    writer.close()
    await until(lambda: not proxy.dataplane.relay.open_connections, "the end of the connection")
    (row,) = view(proxy)
    assert (row.connections, row.bytes) == (Counts(0, 1), Bytes(5, 5))


async def test_an_endpoint_that_refused_is_ejected(proxy, echo):
    address = await proxy.serve_web(free_port(), echo)
    for _ in range(2):
        _, writer = await asyncio.open_connection(*address)
        writer.close()
    await until(lambda: any(e.state == "ejected" for e in view(proxy)[0].endpoints), "the ejection")
    assert sorted(endpoint.state for endpoint in view(proxy)[0].endpoints) == ["ejected", "ready"]


async def test_a_broken_object_is_served_as_it_was_and_says_so(proxy, echo):
    await proxy.serve_web(echo)
    await proxy.apply(Faulted("files", (fault("web"),)))
    (row,) = view(proxy)
    assert row.status == "faulty: spec.ports: is required"
    assert row.addresses


async def test_an_object_that_was_never_right_has_a_row_too(proxy):
    await proxy.apply(Faulted("files", (fault("broken"),)))
    assert view(proxy) == [ServiceRow("default", "broken", "faulty: spec.ports: is required")]


@pytest.mark.parametrize(
    "more",
    [{"headless": True}, {"type": ServiceType.EXTERNAL_NAME}, {"proxy_name": "other"}],
    ids=["headless", "ExternalName", "another proxy's"],
)
async def test_what_is_not_captured_has_no_row(proxy, more):
    ports = (ServicePort("http", Protocol.TCP, 80, 80),)
    await proxy.apply(Upsert(Service(WEB, ports, **more)))
    assert view(proxy) == []


async def test_rows_stand_in_order_of_names_and_ports(proxy):
    def service(name, *numbers):
        ports = tuple(ServicePort(f"p{n}", Protocol.TCP, n, n) for n in numbers)
        return Upsert(Service(NamespacedName("default", name), ports))

    await proxy.apply(service("b", 443, 80), service("a", 9000))
    rows = view(proxy)
    assert [(row.name, row.port, row.status) for row in rows] == [
        ("a", 9000, "no-endpoints"),
        ("b", 80, "no-endpoints"),
        ("b", 443, "no-endpoints"),
    ]


async def test_what_is_not_programmed_yet_is_pending(proxy):
    port = ServicePort("http", Protocol.TCP, 80, 80)
    proxy.store.apply([Upsert(Service(WEB, (port,)))])
    assert [row.status for row in view(proxy)] == ["pending"]


async def test_rows_survive_json(proxy, echo):
    await proxy.serve_web(echo)
    rows = view(proxy)
    assert msgspec.json.decode(msgspec.json.encode(rows), type=list[ServiceRow]) == rows
