"""One uproxy after another on one machine, without a moment in which nobody serves.

Owns the conversation at the lock, which has three words. The later process says `ready` once it knows all
objects. The earlier one, told to stop, says `go`: from then on it programs nothing, has given up the lock
and its HTTP addresses, and still takes connections. The later one programs everything in its place and says
`serving`. Whoever of the two is gone in between is noticed at once, since the connection ends.

Refuses to know what is programmed, and who begins: a process is never replaced unless it is told to stop.
"""

import asyncio
import logging
import socket
from contextlib import suppress

from uproxy.steering.lock import LockHeld, SteeringLock, is_gone, knock

log = logging.getLogger("uproxy")

_READY, _GO, _SERVING = b"r", b"g", b"s"
_READY_WITHIN_S = 5.0
"""How long an end waits for a successor that does not know all objects yet."""
_SERVING_WITHIN_S = 15.0
_KNOCK_AGAIN_S = 0.2


class Successor:
    """Who goes on in the place of this process, as soon as it is told to."""

    def __init__(self, turn: "Turn", stream: socket.socket) -> None:
        self._turn = turn
        self._stream = stream

    def close(self) -> None:
        """Leave it to itself: it waits for its turn all the same."""
        self._stream.close()

    async def takes_over(self) -> bool:
        """Give everything up to it; returns whether it serves. If not, this process has the lock again,
        or somebody else has."""
        self._turn.release()
        try:
            await asyncio.get_running_loop().sock_sendall(self._stream, _GO)
            return await _hears(self._stream, _SERVING, _SERVING_WITHIN_S)
        except OSError:
            return False
        finally:
            self._stream.close()


class Turn:
    """Whose turn it is to program this machine's network: this process's, from the moment it has the lock."""

    def __init__(self) -> None:
        self._lock: SteeringLock | None = None
        self._before: socket.socket | None = None
        """To a predecessor that still takes connections."""
        self._visitors: list[socket.socket] = []

    @property
    def is_ours(self) -> bool:
        """Whether this process holds the lock."""
        return self._lock is not None

    @property
    def follows(self) -> bool:
        """Whether a predecessor waits to hear that this process serves."""
        return self._before is not None

    def try_lock(self, patience_s: float = 0.0) -> bool:
        """Take the lock if nobody else has it, or has after `patience_s`. Raises UproxyError where this
        process may not."""
        if self._lock is None:
            with suppress(LockHeld):
                self._lock = SteeringLock(patience_s)
                self._open(self._lock)
        return self._lock is not None

    def _open(self, lock: SteeringLock) -> None:
        """Admit whoever comes to wait, and forget those that went: the kernel's queue is a short one."""

        def admit() -> None:
            gone = [visitor for visitor in self._visitors if is_gone(visitor)]
            for visitor in gone:
                visitor.close()
                self._visitors.remove(visitor)
            self._visitors += lock.visitors()

        asyncio.get_running_loop().add_reader(lock.fileno(), admit)

    def release(self) -> None:
        """Let others have it."""
        if self._lock is not None:
            asyncio.get_running_loop().remove_reader(self._lock.fileno())
            self._lock.release()
            self._lock = None
        for visitor in self._visitors:
            visitor.close()  # who finds out, and comes again
        self._visitors.clear()

    # ---- the later process ----

    async def comes(self, prepared: asyncio.Event) -> None:
        """Wait for this process's turn. `prepared` is set once it knows all objects."""
        while not self.try_lock():
            try:
                stream = knock()
            except OSError:
                await asyncio.sleep(_KNOCK_AGAIN_S)
                continue
            self._before = await _told_to_go(stream, prepared)
            if self._before is None:
                await asyncio.sleep(_KNOCK_AGAIN_S)

    async def serves(self) -> None:
        """Tell the predecessor that it is not needed any more."""
        if self._before is not None:
            with suppress(OSError):
                await asyncio.get_running_loop().sock_sendall(self._before, _SERVING)
            self._before.close()
            self._before = None

    # ---- the earlier process ----

    async def successor(self) -> Successor | None:
        """Who waits to go on here, and knows all objects, or will in a moment; None if nobody does."""
        if self._lock is not None:
            self._visitors += self._lock.visitors()
        chosen = await _first_ready([visitor for visitor in self._visitors if not is_gone(visitor)])
        if chosen is None:
            return None
        self._visitors.remove(chosen)
        return Successor(self, chosen)


async def _first_ready(visitors: list[socket.socket]) -> socket.socket | None:
    async def hear(one: socket.socket) -> socket.socket | None:
        is_ready = await _hears(one, _READY, _READY_WITHIN_S)
        return one if is_ready and not is_gone(one) else None

    hearing = [asyncio.ensure_future(hear(one)) for one in visitors]
    try:
        for heard in asyncio.as_completed(hearing):
            if (chosen := await heard) is not None:
                return chosen
        return None
    finally:
        for task in hearing:
            task.cancel()
        await asyncio.gather(*hearing, return_exceptions=True)


async def _told_to_go(stream: socket.socket, prepared: asyncio.Event) -> socket.socket | None:
    """Wait to be told; None when the process that would have told is gone."""
    telling = asyncio.ensure_future(_tell_ready(stream, prepared))
    told = False
    try:
        told = await _hears(stream, _GO, None)
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
        if not told:
            stream.close()
    return stream if told else None


async def _tell_ready(stream: socket.socket, prepared: asyncio.Event) -> None:
    await prepared.wait()
    await asyncio.get_running_loop().sock_sendall(stream, _READY)
    log.info("all objects are known: serving as soon as the other uproxy is told to stop")


async def _hears(stream: socket.socket, word: bytes, within_s: float | None) -> bool:
    """Whether the other side says `word`, and not something else or nothing more."""
    try:
        async with asyncio.timeout(within_s):
            return await asyncio.get_running_loop().sock_recv(stream, 1) == word
    except (OSError, TimeoutError):
        return False
