"""What clients do: ask who answers, one at a time, many, or all the time."""

import asyncio
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from types import TracebackType
from typing import Self

from tests.netns.e2e.servers import WHO
from tests.proxy_process import PATIENCE_S, Address, connected, eventually, nonblocking
from uproxy.kit.lab import Host

_AT_ONCE = 20
_WORKERS = 4
_TRIES = 40
REFUSED_WITHIN_S = 1.0
SILENT_FOR_S = 0.5
_TCP_INFO_RETRANSMITS = 2
"""Offset in struct tcp_info (linux/tcp.h)."""
LARGEST = 65_507


async def ask(host: Host, address: Address) -> str:
    """Connect, and return the name of the pod that answers. OSError when none does."""
    async with connected(host, address) as (reader, _):
        return await name_from(reader)


async def name_from(reader: asyncio.StreamReader) -> str:
    """The name that a pod sends first."""
    async with asyncio.timeout(PATIENCE_S):
        line = await reader.readline()
    if not line.endswith(b"\n"):
        raise ConnectionError("closed before anybody answered")
    return line.decode().strip()


async def ask_often(host: Host, address: Address, count: int) -> Counter[str]:
    """Ask `count` times, several at once; how often each pod answered."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one() -> str:
        async with gate:
            return await ask(host, address)

    return Counter(await asyncio.gather(*(one() for _ in range(count))))


async def echoes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes = b"x") -> bool:
    """Whether an open connection still brings back what is sent."""
    writer.write(data)
    async with asyncio.timeout(PATIENCE_S):
        return await reader.readexactly(len(data)) == data


async def rest_of(reader: asyncio.StreamReader) -> bytes:
    """What an open connection still brings, until its end."""
    async with asyncio.timeout(PATIENCE_S):
        return await reader.read()


async def is_refused(host: Host, address: Address) -> bool:
    """Whether a connection is refused, within a second."""
    with nonblocking(host, address, socket.SOCK_STREAM) as stream:
        try:
            async with asyncio.timeout(REFUSED_WITHIN_S):
                await asyncio.get_running_loop().sock_connect(stream, address)
        except ConnectionRefusedError:
            return True
        except ConnectionResetError:
            return False  # let in by a listener in its last moment
    return False


@contextmanager
def datagrams(host: Host, address: Address) -> Iterator[socket.socket]:
    """A datagram socket connected to `address`: it takes answers from nowhere else."""
    with nonblocking(host, address, socket.SOCK_DGRAM) as sock:
        sock.connect(address)
        yield sock


async def answer(sock: socket.socket, question: bytes = WHO) -> bytes:
    """Send a datagram; returns the answer. OSError when it is refused."""
    sock.send(question)
    async with asyncio.timeout(PATIENCE_S):
        return await asyncio.get_running_loop().sock_recv(sock, LARGEST + 1)


async def datagram_is_refused(host: Host, address: Address) -> bool:
    """Whether a datagram meets "port unreachable", within a second."""
    with datagrams(host, address) as sock:
        try:
            async with asyncio.timeout(REFUSED_WITHIN_S):
                await answer(sock)
        except ConnectionRefusedError:
            return True
    return False


async def who_answers(host: Host, address: Address, protocol: str) -> str:
    if protocol == "TCP":
        return await ask(host, address)
    with datagrams(host, address) as sock:
        return (await answer(sock, WHO)).decode()


async def all_who_answer(who: Callable[[], Awaitable[str]], expected: frozenset[str]) -> set[str]:
    """Ask until every expected pod has answered, or one that is not."""
    seen: set[str] = set()
    for _ in range(_TRIES):
        seen.add(await who())
        if not seen < expected:
            break
    return seen


async def gets_no_answer(host: Host, address: Address, protocol: str) -> bool:
    """Neither answered nor refused: the kernel has asked again, as it does after a second."""
    if protocol == "UDP":
        return await datagram_is_lost(host, address)
    with nonblocking(host, address, socket.SOCK_STREAM) as stream:
        connecting = asyncio.ensure_future(asyncio.get_running_loop().sock_connect(stream, address))

        async def asked_again_or_over() -> bool:
            return connecting.done() or retransmits(stream) > 0

        await eventually(asked_again_or_over, "a second try")
        if connecting.done():
            return isinstance(connecting.exception(), PermissionError)  # dropped on its way out of the node
        connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)
    return True


def retransmits(stream: socket.socket) -> int:
    """How often the kernel has asked again."""
    return stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[_TCP_INFO_RETRANSMITS]


async def datagram_is_lost(host: Host, address: Address) -> bool:
    """Whether a datagram is neither answered nor refused, for as long as either takes at most."""
    with datagrams(host, address) as sock:
        try:
            async with asyncio.timeout(SILENT_FOR_S):
                await answer(sock)
        except (TimeoutError, PermissionError):  # the latter: dropped on its way out of the node
            return True
        except ConnectionRefusedError:
            return False
    return False


@dataclass(frozen=True)
class Outcome:
    """How one connection went: who answered, or the error."""

    begun_s: float
    pod: str | None
    error: Exception | None


@dataclass
class Load:
    """Clients that connect, ask and close without a pause, from `async with` to its end."""

    host: Host
    address: Address
    outcomes: list[Outcome] = field(default_factory=list)
    _workers: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._workers = [loop.create_task(self._work()) for _ in range(_WORKERS)]
        await self.answered_since(monotonic(), 20)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            begun_s = monotonic()
            try:
                self.outcomes.append(Outcome(begun_s, await ask(self.host, self.address), None))
            except (OSError, TimeoutError) as error:
                self.outcomes.append(Outcome(begun_s, None, error))

    def since(self, moment_s: float) -> list[Outcome]:
        """The connections begun after a moment that are over."""
        return [outcome for outcome in self.outcomes if outcome.begun_s > moment_s]

    def errors_since(self, moment_s: float = 0.0) -> list[Exception]:
        return [outcome.error for outcome in self.since(moment_s) if outcome.error is not None]

    async def answered_since(self, moment_s: float, count: int) -> Counter[str | None]:
        """Wait until `count` connections begun after a moment are over; who answered them."""

        async def are_over() -> bool:
            return len(self.since(moment_s)) >= count

        await eventually(are_over, f"{count} connections")
        return Counter(outcome.pod for outcome in self.since(moment_s))
