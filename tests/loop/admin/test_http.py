import asyncio
import json
import socket

import aiohttp
import pytest

from uproxy.admin.client import fetch_services
from uproxy.admin.http import start_http
from uproxy.admin.rows import ServiceRow
from uproxy.errors import UproxyError
from uproxy.model.node import Node


async def ask(address, path, method="GET"):
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"http://{address}{path}") as response,
    ):
        return response.status, response.headers, await response.text()


async def test_metrics_are_in_the_text_format(proxy, servers):
    status, headers, body = await ask(servers.metrics_address, "/metrics")
    assert status == 200
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "\nuproxy_info{" in body
    assert body.endswith("\n")


async def test_metrics_address_answers_as_kube_proxys_does(proxy, servers):
    assert (await ask(servers.metrics_address, "/healthz"))[::2] == (200, "ok")
    assert (await ask(servers.metrics_address, "/proxyMode"))[::2] == (200, "userspace")
    assert (await ask(servers.metrics_address, "/livez"))[0] == 503


@pytest.mark.parametrize("path", ["/healthz", "/livez"])
async def test_health_follows_programming(proxy, servers, path):
    status, headers, body = await ask(servers.health_address, path)
    assert (status, json.loads(body)["healthy"]) == (503, False)
    assert headers["Content-Type"].startswith("application/json")
    await proxy.apply()
    await proxy.loop.programmed.wait()
    status, _, body = await ask(servers.health_address, path)
    assert (status, json.loads(body)["healthy"]) == (200, True)
    assert ("nodeEligible" in json.loads(body)) is (path == "/healthz")


async def test_health_follows_the_node(proxy, servers):
    await proxy.apply()
    await proxy.loop.programmed.wait()
    proxy.store.node = Node("here", leaving=True)
    status, _, body = await ask(servers.health_address, "/healthz")
    assert (status, json.loads(body)["nodeEligible"]) == (503, False)
    assert (await ask(servers.health_address, "/livez"))[0] == 200


async def test_settings_are_shown(proxy, servers):
    status, headers, body = await ask(servers.metrics_address, "/configz")
    assert (status, headers["Content-Type"].split(";")[0]) == (200, "application/json")
    assert json.loads(body)["uproxy"]["metrics_address"] == ["127.0.0.1", 10249]


async def test_status_names_the_paths(proxy, servers):
    status, headers, body = await ask(servers.metrics_address, "/statusz")
    assert (status, headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    (paths,) = [line for line in body.splitlines() if line.startswith("Paths: ")]
    for path in paths.split()[1:]:
        assert (await ask(servers.metrics_address, path))[0] in (200, 503)
    assert "/statusz" in paths


async def test_draining_shows_on_healthz_only(proxy, servers):
    await proxy.apply()
    await proxy.loop.programmed.wait()
    proxy.pages.health.draining = True
    assert (await ask(servers.health_address, "/healthz"))[0] == 503
    assert (await ask(servers.health_address, "/livez"))[0] == 200


async def test_services_are_json(proxy, servers, echo):
    host, port = await proxy.serve_web(echo)
    status, headers, body = await ask(servers.metrics_address, "/services")
    assert status == 200
    assert headers["Content-Type"].startswith("application/json")
    (row,) = json.loads(body)
    assert row["addresses"] == [f"{host}:{port}"]
    assert row["endpoints"] == [
        {"address": f"127.0.0.1:{echo}", "state": "ready", "connections": {"active": 0, "total": 0}}
    ]


async def test_paths_and_methods_that_are_not_there(proxy, servers):
    assert (await ask(servers.metrics_address, "/nowhere"))[0] == 404
    assert (await ask(servers.health_address, "/metrics"))[0] == 404
    assert (await ask(servers.metrics_address, "/metrics", "POST"))[0] == 405
    assert (await ask(servers.metrics_address, "/metrics", "HEAD"))[::2] == (200, "")


@pytest.mark.parametrize("path", ["/metrics", "/services", "/livez", "/nowhere"])
async def test_no_answer_may_be_sniffed(proxy, servers, path):
    assert (await ask(servers.metrics_address, path))[1]["X-Content-Type-Options"] == "nosniff"


async def test_one_address_serves_all(proxy):
    servers = await start_http(proxy.pages, ("127.0.0.1", 0), ("127.0.0.1", 0))
    try:
        assert servers.metrics_address == servers.health_address
        assert (await ask(servers.metrics_address, "/metrics"))[0] == 200
        assert "nodeEligible" in (await ask(servers.health_address, "/healthz"))[2]
    finally:
        await servers.close()


async def test_an_address_in_use_is_one_clear_line(proxy):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = taken.getsockname()
        with pytest.raises(UproxyError) as caught:
            await start_http(proxy.pages, ("127.0.0.2", address[1]), address)
    assert str(caught.value) == f"cannot serve health on 127.0.0.1:{address[1]}: address already in use"
    with socket.create_server(("127.0.0.2", address[1])):
        pass  # what was bound before the failure is free again


async def test_an_address_that_is_not_ours_is_one_clear_line(proxy):
    with pytest.raises(
        UproxyError, match=r"^cannot serve metrics on 192\.0\.2\.1:1: cannot assign requested"
    ):
        await start_http(proxy.pages, ("192.0.2.1", 1), ("127.0.0.1", 0))


async def test_the_client_reads_what_the_server_says(proxy, servers, echo):
    await proxy.serve_web(echo)
    (row,) = await asyncio.to_thread(fetch_services, servers.metrics_address)
    assert isinstance(row, ServiceRow)
    assert (row.name, row.status) == ("web", "ok")


async def test_nobody_there_is_one_clear_line():
    with socket.create_server(("127.0.0.1", 0)) as closing:
        address = closing.getsockname()
    with pytest.raises(UproxyError) as caught:
        fetch_services(address)
    assert str(caught.value) == f"no uproxy answers on 127.0.0.1:{address[1]}: connection refused"


async def test_somebody_else_there_is_told_from_a_proxy(servers):
    with pytest.raises(UproxyError, match="is no uproxy: /services has HTTP status 404"):
        await asyncio.to_thread(fetch_services, servers.health_address)


async def test_something_that_speaks_no_http_is_one_clear_line():
    async def greet(_reader, writer):
        writer.write(b"220 mail ready\r\n")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    try:
        address = server.sockets[0].getsockname()
        with pytest.raises(UproxyError, match="no uproxy answers on"):
            await asyncio.to_thread(fetch_services, address)
    finally:
        server.close()
