"""An edge-triggered epoll inside the event loop: how relayed sockets are watched.

Owns one epoll descriptor, which the event loop watches as a single reader. Refuses to
know what the descriptors are for.

Why not the loop's own transports: connections cost less, no bytes pile up in user memory
behind a stopped reader, and plain sockets can be handed to another relay
(docs/decisions/0002-relay.md has the figures).
Edge-triggered, so a socket is registered once: back-pressure needs no system call.
"""

import asyncio
import select
from collections.abc import Callable
from typing import Protocol

from uproxy.dataplane.trials import tells_ends, tells_failures

READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT
PEER_DONE = select.EPOLLRDHUP
FAILED = select.EPOLLERR
HUNG_UP = select.EPOLLHUP

_EVERYTHING = READABLE | WRITABLE | PEER_DONE | select.EPOLLET
_BATCH = 256


class Watched(Protocol):
    """Something with a descriptor, told when that descriptor may have become ready.

    Events can be stale or spurious; a handler must take "not ready after all" calmly.
    """

    def on_events(self, events: int) -> None:
        """React to an epoll event mask."""
        ...


class Turn(Protocol):
    """Work that gave way to others and wants to go on."""

    def pump(self) -> None:
        """Go on."""
        ...


class Reactor:
    """The epoll, and who is behind each descriptor."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.tells_ends = tells_ends()
        self.tells_failures = tells_failures()
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._turns: dict[Turn, None] = {}  # a set that keeps its order
        loop.add_reader(self._epoll.fileno(), self._ready)

    def watch(self, fd: int, watched: Watched) -> None:
        """Report all edges of `fd` to `watched`; the present state counts as one."""
        self._handlers[fd] = watched.on_events
        self._epoll.register(fd, _EVERYTHING)

    def release(self, fd: int) -> None:
        """Stop watching `fd`, which stays open and may be watched again."""
        del self._handlers[fd]
        self._epoll.unregister(fd)

    def forget(self, fd: int) -> None:
        """Stop watching `fd`, which is about to be closed: closing ends the registration."""
        self._handlers.pop(fd, None)

    def later(self, turn: Turn) -> None:
        """Call `turn.pump()` after everybody else has had a turn."""
        if not self._turns:
            self.loop.call_soon(self._run_turns)
        self._turns[turn] = None

    def close(self) -> None:
        """Release the epoll. The watched descriptors stay their owners'."""
        self.loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _ready(self) -> None:
        handlers = self._handlers
        for fd, events in self._epoll.poll(0, _BATCH):
            try:
                handle = handlers[fd]
            except KeyError:
                continue  # closed by an earlier event of this batch
            handle(events)

    def _run_turns(self) -> None:
        turns, self._turns = self._turns, {}
        for turn in turns:
            turn.pump()
