"""Clients that mean no good: they come to a listening address, say some of what they could, and reset.

For every server that strangers reach. All of it is deterministic: what is to be there when a server
accepts has been sent, or reset, before its event loop has a turn.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress

_RESET = struct.pack("ii", 1, 0)
GARBAGE = (b"\0" * 64, b"\xff" * 300, b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"\r\n" * 40)


def come(address: tuple[str, int], says: bytes = b"", *, from_ip: str = "") -> socket.socket:
    """A client that has connected and said something; the kernel does both without the server."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    client = socket.socket(family)
    client.settimeout(5.0)
    if from_ip:
        client.bind((from_ip, 0))
    client.connect(address)
    client.sendall(says)
    return client


def reset(client: socket.socket) -> None:
    """End it with a reset."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    client.close()


def sayings(request: bytes) -> Iterator[bytes]:
    """Everything that a client may have said when it resets: each beginning of a request, and nonsense."""
    yield from (request[:length] for length in range(len(request) + 1))
    yield from (request * 3, request + request[: len(request) // 2])
    yield from GARBAGE
    yield from (request[: len(request) // 2] + garbage for garbage in GARBAGE)


async def abuse(address: tuple[str, int], request: bytes) -> int:
    """Come and reset at each moment of a conversation; returns how many did."""
    count = 0
    for says in sayings(request):
        for turns in (0, 1, 2, 5):
            client = come(address, says)
            await _turns(turns)  # 0: it is gone before it is accepted
            reset(client)
            count += 1
        half = come(address, says)
        half.shutdown(socket.SHUT_WR)
        await _turns(3)
        reset(half)
        unread = come(address, says * 2)
        await _turns(6)
        unread.setblocking(False)
        with suppress(OSError):  # perhaps nothing has come
            unread.recv(1)
        reset(unread)
        count += 2
    return count


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@asynccontextmanager
async def nothing_escapes() -> AsyncIterator[list[dict[str, object]]]:
    """Fail when the event loop is told of an exception that nobody caught."""
    told: list[dict[str, object]] = []
    loop = asyncio.get_running_loop()
    before: Callable[..., object] | None = loop.get_exception_handler()
    loop.set_exception_handler(lambda _loop, context: told.append(context))
    try:
        yield told
    finally:
        loop.set_exception_handler(before)
    assert not told, told
