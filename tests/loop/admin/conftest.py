"""A proxy with its store and reconcile loop, and one echoing backend, all on loopback."""

import argparse
import asyncio
import time
from ipaddress import ip_address, ip_network

import pytest_asyncio

from tests.loop.conftest import free_port
from tests.loop.rig import Rig, until
from uproxy.admin.http import Pages, start_http
from uproxy.admin.metrics import About
from uproxy.model.endpoint import Endpoint, EndpointSlice, SlicePort
from uproxy.model.events import Synced, Upsert
from uproxy.model.names import NamespacedName, Protocol
from uproxy.model.service import Service, ServicePort
from uproxy.reconcile.loop import ReconcileLoop
from uproxy.settings import Settings, add_run_flags, parse_settings
from uproxy.state.addresses import AddressPlan
from uproxy.state.store import Store

WEB = NamespacedName("default", "web")


STARTED_S = 1_000_000.0
"""Where the wall clock of these tests stands."""
ABOUT = About("python", "bind", "loopback")


def settings(*argv: str) -> Settings:
    """What these flags say, and no more than needed beside them."""
    parser = argparse.ArgumentParser()
    add_run_flags(parser)
    return parse_settings(parser.parse_args(argv or ("-f", "web.yaml")))


class Proxy:
    """A Rig that is programmed through a ReconcileLoop, and its admin pages."""

    def __init__(self, rig: Rig) -> None:
        self.context, self.dataplane = rig.context, rig.dataplane
        plan = AddressPlan(ip_network("127.96.0.0/16"), loopback_only=True)
        self.store = Store(plan)
        self.wall_s = STARTED_S
        self.loop = ReconcileLoop(
            self.store, [self.dataplane], frozenset({"files"}), time.monotonic, lambda: self.wall_s
        )
        self.port = free_port()
        self.pages = Pages(self.store, self.dataplane, self.loop, ABOUT, settings())

    async def apply(self, *events) -> None:
        self.loop.emit(Synced("files"))
        for event in events:
            self.loop.emit(event)
        await until(lambda: self.loop.queued_since_s is None, "programming")

    async def serve_web(self, *backend_ports: int) -> tuple[str, int]:
        """Serve `default/web` with backends on these ports of 127.0.0.1; returns where."""
        port = ServicePort("http", Protocol.TCP, self.port, 80)
        await self.apply(Upsert(Service(WEB, (port,))), *map(web_slice, backend_ports))
        (frontend,) = next(iter(self.store.desired.values())).frontends
        return str(frontend.vip.ip), frontend.vip.port


def web_slice(backend_port: int) -> Upsert:
    key = NamespacedName("default", f"web-{backend_port}")
    ports = (SlicePort("http", Protocol.TCP, backend_port),)
    return Upsert(EndpointSlice(key, WEB, ports, (Endpoint(ip_address("127.0.0.1")),)))


@pytest_asyncio.fixture
async def proxy(rig):
    made = Proxy(rig)
    running = asyncio.get_running_loop().create_task(made.loop.run())
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest_asyncio.fixture
async def servers(proxy):
    """The HTTP servers of `proxy`, each on an address of its own."""
    made = await start_http(proxy.pages, ("127.0.0.1", 0), ("127.0.0.2", 0))
    yield made
    await made.close()


@pytest_asyncio.fixture
async def echo():
    """The port of a server that sends back what it gets."""

    async def handle(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
