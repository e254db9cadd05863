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
URGENT = select.EPOLLPRI
WRITABLE = select.EPOLLOUT
PEER_DONE = select.EPOLLRDHUP
FAILED = select.EPOLLERR
HUNG_UP = select.EPOLLHUP

_EVERYTHING = READABLE | URGENT | WRITABLE | PEER_DONE | select.EPOLLET
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
        self._new: set[int] = set()
        """Descriptors watched since the events at hand were taken."""
        self._turns: dict[Turn, None] = {}  # a set that keeps its order
        loop.add_reader(self._epoll.fileno(), self._ready)

    def watch(self, fd: int, watched: Watched) -> None:
        """Report all edges of `fd` to `watched`; the present state counts as one.

        Raises OSError without memory, or when all processes of this user have as many watches as they may.
        """
        self._epoll.register(fd, _EVERYTHING)
        self._handlers[fd] = watched.on_events
        self._new.add(fd)

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
        handlers, new = self._handlers, self._new
        new.clear()
        for fd, events in self._epoll.poll(0, _BATCH):
            # Closed by an earlier event of this batch; and maybe its number is another's now, who will be
            # told of its own state next time, since that counts as an edge.
            if fd in new or fd not in handlers:
                continue
            handlers[fd](events)

    def _run_turns(self) -> None:
        turns, self._turns = self._turns, {}
        for turn in turns:
            turn.pump()
