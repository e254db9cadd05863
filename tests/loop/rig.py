"""A data plane on loopback, programmed by hand: what the loop tier's tests share."""

import asyncio
import socket
import time
from collections.abc import Sequence
from ipaddress import ip_address

from uproxy.dataplane.context import Context, Timeouts
from uproxy.dataplane.descriptors import Descriptors
from uproxy.dataplane.proxy import Dataplane
from uproxy.dataplane.reactor import Reactor
from uproxy.dataplane.relay.native_relay import NativeRelay
from uproxy.dataplane.relay.python_relay import PythonRelay
from uproxy.dataplane.relays import Ended, Relay
from uproxy.model.frontend import (
    Backend,
    Changes,
    DesiredServicePort,
    EndpointState,
    Frontend,
    FrontendKind,
)
from uproxy.model.names import Protocol, ServicePortName, Vip
from uproxy.model.options import DEFAULT_OPTIONS, Options

PATIENCE_S = 20.0
TIMEOUTS = Timeouts(connect_s=1.0, dial_budget_s=5.0, idle_s=3600.0, half_closed_s=3600.0)


OPEN: "set[Rig]" = set()


def new_relay(name: str, context: Context, ended=None) -> Relay:
    """`python`, or `native-THREADS`."""
    kind, _, threads = name.partition("-")
    return NativeRelay(context, int(threads), ended) if kind == "native" else PythonRelay(context, ended)


def backend(address: tuple) -> Backend:
    return Backend(ip_address(address[0]), address[1])


class Rig:
    """A Dataplane, and short ways to program it."""

    def __init__(
        self,
        relay: str,
        timeouts: Timeouts = TIMEOUTS,
        limit: int = 10_000,
        flow_limit: int = 100,
        *,
        access_log: bool = True,
    ) -> None:
        loop = asyncio.get_running_loop()
        OPEN.add(self)
        self.ended: list = []
        self.records: list = []
        self._cleanups: list = []
        self.descriptors = Descriptors(loop, limit)
        self.context = Context(loop, Reactor(loop), self.descriptors, timeouts, 0, True, time.monotonic)
        self.relay = new_relay(relay, self.context, self._note_end if access_log else None)
        self.dataplane = Dataplane(self.context, self.relay, flow_limit, 120.0)

    def _note_end(self, ended: Ended) -> None:
        self.ended.append(ended.reason)
        self.records.append(ended)

    async def serve(
        self,
        vip: tuple[str, int],
        backends: Sequence[Backend],
        protocol: Protocol = Protocol.TCP,
        affinity_timeout_s: int | None = None,
        options: Options = DEFAULT_OPTIONS,
        gone: Sequence[Backend] = (),
    ):
        """Program one Service port; returns its ProgrammedPort. Those `gone` are listed, and have ended."""
        ip = ip_address(vip[0])
        name = ServicePortName("default", "web", "", protocol)
        frontend = Frontend(Vip(ip, vip[1], protocol), FrontendKind.CLUSTER_IP, ip.version)
        desired = DesiredServicePort(
            name,
            vip[1],
            (frontend,),
            dict.fromkeys(backends, EndpointState.READY) | dict.fromkeys(gone, EndpointState.NOT_READY),
            {ip.version: tuple(backends)},
            affinity_timeout_s,
            options=options,
            gone=frozenset(gone),
        )
        changes = Changes((desired,))
        problems = await self.dataplane.make(changes)
        assert not problems, problems
        await self.dataplane.retire(changes)
        return self.dataplane.ports[name]

    def at_close(self, cleanup) -> None:
        """Call `cleanup` when the test is over."""
        self._cleanups.append(cleanup)

    async def pair(self, vip: tuple[str, int]) -> tuple[socket.socket, socket.socket]:
        """Serve `vip`, connect to it: the client's socket and the backend's, the relay between."""
        loop = asyncio.get_running_loop()
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        await self.serve(vip, [backend(listener.getsockname())])
        client = socket.socket()
        client.setblocking(False)
        await loop.sock_connect(client, vip)
        server, _ = await asyncio.wait_for(loop.sock_accept(listener), PATIENCE_S)
        listener.close()
        self.at_close(client.close)
        self.at_close(server.close)
        return client, server

    async def forget(self) -> None:
        """Serve nothing any more, and release what the tests made until now."""
        changes = Changes((), tuple(self.dataplane.ports))
        await self.dataplane.make(changes)
        await self.dataplane.retire(changes)
        for cleanup in self._cleanups:
            cleanup()
        self._cleanups.clear()

    async def close(self) -> None:
        OPEN.discard(self)
        for cleanup in self._cleanups:
            cleanup()
        await self.dataplane.close()
        self.context.reactor.close()


async def until(condition, what: str = "") -> None:
    """Wait for a condition, and fail when it does not come."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"not seen in {PATIENCE_S:g} s: {what or condition}"
        await asyncio.sleep(0.005)
