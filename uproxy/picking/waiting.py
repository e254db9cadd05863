"""Clients that were accepted and cannot be dialled for yet: for want of a place at an endpoint, or of
an endpoint at all.

Owns their order, first in first out. Pure: what a client does when its turn comes, `waiter.py` says.
"""

from enum import StrEnum
from typing import Protocol

HELD_MAX = 1024
"""Clients of one Service port that may wait for a first endpoint."""


class Wait(StrEnum):
    """What a client waits for."""

    PLACE = "place"
    """Every endpoint has as many connections as it may have."""
    ENDPOINT = "endpoint"
    """There is none, and the Service holds its clients until one comes."""


class Waiting(Protocol):
    """A client in the room."""

    @property
    def wait(self) -> Wait:
        """What it came for."""
        ...

    def try_again(self, now_s: float) -> bool:
        """Go on if that is possible now; False when it has to wait on."""
        ...


class WaitingRoom:
    """Those who wait at one Service port, a queue for each of its routes."""

    __slots__ = ("_queues", "_serving", "numbers")

    def __init__(self) -> None:
        self.numbers = dict.fromkeys(Wait, 0)
        """How many wait for each."""
        self._queues: dict[object, dict[Waiting, None]] = {}
        self._serving = False

    def __bool__(self) -> bool:
        return bool(self._queues)

    def enter(self, route: object, client: Waiting) -> None:
        """Join the end of the route's queue."""
        self._queues.setdefault(route, {})[client] = None
        self.numbers[client.wait] += 1

    def leave(self, route: object, client: Waiting) -> None:
        """Leave it, wherever it stands."""
        queue = self._queues[route]
        del queue[client]
        self.numbers[client.wait] -= 1
        if not queue:
            del self._queues[route]

    def serve(self, now_s: float) -> None:
        """Something has changed: let those go on who can, until the first of each queue cannot."""
        if self._serving:
            return  # somebody who goes on gave a place back: the loop below sees that too
        self._serving = True
        try:
            for queue in list(self._queues.values()):
                while queue and next(iter(queue)).try_again(now_s):
                    pass
        finally:
            self._serving = False
