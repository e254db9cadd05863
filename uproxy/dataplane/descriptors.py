"""Out of descriptors is load, not a bug: accepting pauses, is counted, and resumes.

Owns how many connections may be open at once, and who waits to accept more. Listeners are
watched edge-triggered, so a paused one costs nothing and cannot spin.
"""

import asyncio
import resource
from collections.abc import Callable
from typing import Protocol

RESERVED = 256
"""Descriptors kept for files, watches, the API and the admin port."""

PIPES_SHARE = 0.75
"""Pipes, two descriptors each, are spent on speed alone: only while this share is not in use."""

WAITING_SHARE = 0.75
"""Clients may wait for an endpoint only while this share is not in use: the rest is for those who need
not wait."""

_RETRY_S = 0.1


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
        self.elsewhere: Callable[[], int] = int
        """Asked for those that somebody else counts: the native relay's connections."""
        self.pauses = 0
        """How many times accepting had to pause."""
        self._waiting: dict[Paused, None] = {}
        self._retry: asyncio.TimerHandle | None = None

    @property
    def used_by_all(self) -> int:
        """What is in use, whoever counts it."""
        return self.used + self.elsewhere()

    @property
    def scarce(self) -> bool:
        """Whether another connection, with its two sockets, would go over the budget."""
        return self.used + self.elsewhere() + 2 > self.limit

    @property
    def plenty(self) -> bool:
        """Whether there are enough for pipes."""
        return self.used + 2 <= self.limit * PIPES_SHARE

    @property
    def room_to_wait(self) -> bool:
        """Whether there are enough for clients that only wait."""
        return self.used_by_all + 2 <= self.limit * WAITING_SHARE

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
