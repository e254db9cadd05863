"""A byte-exact checker of relayed connections: clients and servers that follow a script.

Each connection begins with a header that tells the server what to expect and to send; the
bytes are random but known to both sides. On the greeting port the server speaks first.
"""

import asyncio
import random
import struct
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache

GREETING = b"220 ready\r\n" * 100
HEADER = struct.Struct("!BIII")
PIECE = 64 * 1024


class Ending(IntEnum):
    """Who finishes sending first."""

    CLIENT = 0
    SERVER = 1
    TOGETHER = 2


@dataclass(frozen=True)
class Script:
    """What one connection does."""

    seed: int
    up: int
    down: int
    ending: Ending
    server_first: bool = False
    slow_client: bool = False
    slow_server: bool = False


def random_script(seed: int, largest: int) -> Script:
    """A script that depends on `seed` only; sizes are spread evenly over the magnitudes."""
    chance = random.Random(seed)

    def size() -> int:
        return 0 if chance.random() < 0.05 else int(largest ** chance.random())

    return Script(
        seed,
        size(),
        size(),
        Ending(chance.randrange(3)),
        server_first=chance.random() < 0.25,
        slow_client=chance.random() < 0.1,
        slow_server=chance.random() < 0.1,
    )


@cache
def _noise() -> bytes:
    return random.Random(1).randbytes(24 * 1024 * 1024)


def data_of(seed: int, size: int) -> memoryview:
    """`size` bytes that differ from seed to seed."""
    start = seed * 7919 % (len(_noise()) - size)
    return memoryview(_noise())[start : start + size]


async def _send(writer: asyncio.StreamWriter, data: memoryview) -> None:
    for at in range(0, len(data), PIECE):
        _be_open(writer)
        writer.write(data[at : at + PIECE])
        await writer.drain()


def _finish(writer: asyncio.StreamWriter) -> None:
    _be_open(writer)
    writer.write_eof()


def _be_open(writer: asyncio.StreamWriter) -> None:
    if writer.transport.is_closing():  # uvloop's own error is a RuntimeError
        raise ConnectionResetError


async def _receive(reader: asyncio.StreamReader, expected: memoryview, *, slow: bool) -> None:
    """Read to the end of the stream; AssertionError at the first byte that is wrong."""
    at = 0
    small_reads = 40 if slow else 0
    while True:
        if small_reads:
            small_reads -= 1
            await asyncio.sleep(0.002)
        piece = await reader.read(1000 if small_reads else PIECE)
        if not piece:
            break
        assert piece == expected[at : at + len(piece)], f"wrong bytes near {at}"
        at += len(piece)
    assert at == len(expected), f"got {at} of {len(expected)} bytes"


async def run_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, script: Script) -> None:
    """Follow `script`; AssertionError or OSError when the connection did not."""
    if script.server_first:
        assert await reader.readexactly(len(GREETING)) == GREETING
    flags = script.ending | (0x10 if script.slow_server else 0)
    writer.write(HEADER.pack(flags, script.seed, script.up, script.down))
    up, down = data_of(script.seed, script.up), data_of(script.seed + 1, script.down)
    try:
        if script.ending is Ending.SERVER:
            await _receive(reader, down, slow=script.slow_client)
            await _send(writer, up)
            _finish(writer)
            return

        async def send() -> None:
            await _send(writer, up)
            _finish(writer)

        await asyncio.gather(send(), _receive(reader, down, slow=script.slow_client))
    finally:
        writer.close()
    await writer.wait_closed()


@dataclass
class Server:
    """Answers scripts, and collects what went wrong."""

    failures: list[str] = field(default_factory=list)
    served: int = 0

    async def greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handle a connection on the port where the server speaks first."""
        writer.write(GREETING)
        await self.handle(reader, writer)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handle a connection."""
        try:
            await self._follow(reader, writer)
            self.served += 1
        except (AssertionError, OSError, asyncio.IncompleteReadError) as error:
            self.failures.append(repr(error))
        finally:
            writer.close()

    async def _follow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        flags, seed, up_size, down_size = HEADER.unpack(await reader.readexactly(HEADER.size))
        ending, slow = Ending(flags & 0x0F), bool(flags & 0x10)
        up, down = data_of(seed, up_size), data_of(seed + 1, down_size)
        if ending is Ending.CLIENT:
            await _receive(reader, up, slow=slow)
            await _send(writer, down)
        elif ending is Ending.SERVER:
            await _send(writer, down)
            _finish(writer)
            await _receive(reader, up, slow=slow)
        else:

            async def send() -> None:
                await _send(writer, down)
                _finish(writer)

            await asyncio.gather(send(), _receive(reader, up, slow=slow))
