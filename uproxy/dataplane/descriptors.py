"""Out of descriptors is load, not a bug: accepting pauses, is counted, and resumes.

Owns how many connections may be open at once, and who waits to accept more. Listeners are
watched edge-triggered, so a paused one costs nothing and cannot spin.
"""

import asyncio
import resource
from typing import Protocol

RESERVED = 256
"""Descriptors kept for files, watches, the API and the admin port."""

_RETRY_S = 0.1
_FOR_PIPES_UP_TO = 0.75


class Paused(Protocol):
    """A listener whose backlog waits."""

    def accept(self) -> None:
        """Go on accepting."""
        ...


class Descriptors:
    """The budget of descriptors, and the listeners that wait for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int) -> None:
        self._loop = loop
        self.limit = limit
        """Descriptors that connections, flows and listeners may use."""
        self.used = 0
        self.pauses = 0
        """How many times accepting had to pause."""
        self._waiting: dict[Paused, None] = {}
        self._retry: asyncio.TimerHandle | None = None

    @property
    def scarce(self) -> bool:
        """Whether another connection, with its two sockets, would go over the budget."""
        return self.used + 2 > self.limit

    @property
    def plenty(self) -> bool:
        """Whether there are enough to spend some on speed alone: pipes, two descriptors each."""
        return self.used + 2 <= self.limit * _FOR_PIPES_UP_TO

    @property
    def paused(self) -> bool:
        """Whether a listener waits now."""
        return bool(self._waiting)

    def wait(self, listener: Paused) -> None:
        """Pause `listener` until descriptors come back."""
        if not self._waiting:
            self.pauses += 1
        self._waiting[listener] = None
        # Other processes can hold what we lack, so closed connections are not the only
        # sign to go on: look again from time to time.
        if self._retry is None:
            self._retry = self._loop.call_later(_RETRY_S, self._resume)

    def forget(self, listener: Paused) -> None:
        """`listener` is closed and waits no more."""
        self._waiting.pop(listener, None)

    def released(self, count: int) -> None:
        """`count` descriptors were closed."""
        self.used -= count

    def _resume(self) -> None:
        self._retry = None
        waiting, self._waiting = self._waiting, {}
        for listener in waiting:
            listener.accept()  # waits again by itself if it has to


def descriptor_budget() -> int:
    """How many descriptors traffic may use, once this process's soft limit is raised to the hard."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard - min(RESERVED, hard // 2)
