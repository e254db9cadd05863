"""Servers and clients that keep their connections: what the tests of options share."""

import asyncio
import socket

from tests.loop.rig import PATIENCE_S, backend


class Keeper:
    """A server that says its name to each client, and keeps the connection."""

    def __init__(self, rig, name: str) -> None:
        self.name = name
        self.connections: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
        self._listener.setblocking(False)
        self.backend = backend(self._listener.getsockname())
        self._task = asyncio.ensure_future(self._accept())
        rig.at_close(self.close)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(self._listener)
            connection.setblocking(False)
            self.connections.append(connection)
            connection.send(self.name.encode())

    def close(self) -> None:
        self._task.cancel()
        for sock in (self._listener, *self.connections):
            sock.close()


class Caller:
    """A client; `name` is whom it reached."""

    def __init__(self, rig, vip) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self._vip = vip
        rig.at_close(self.socket.close)

    async def connect(self) -> "Caller":
        await asyncio.get_running_loop().sock_connect(self.socket, self._vip)
        return self

    async def read(self, count: int = 100) -> bytes:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.socket, count), PATIENCE_S)

    async def write(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def was_reset(self) -> bool:
        """Whether the next thing that it hears is a reset."""
        try:
            await self.read()
        except ConnectionResetError:
            return True
        return False

    def close(self) -> None:
        self.socket.close()


async def call(rig, vip) -> tuple[str, Caller]:
    """Connect; whom it reached, and the client."""
    caller = await Caller(rig, vip).connect()
    return (await caller.read()).decode(), caller


async def turned_away(rig, vip) -> bool:
    """Whether a client is accepted and reset at once; it may hear of it when it connects."""
    try:
        return await (await Caller(rig, vip).connect()).was_reset()
    except ConnectionResetError:
        return True
