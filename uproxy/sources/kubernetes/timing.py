"""When to try again, and for how long to be patient: all of it measured by a clock that is passed in."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic

BACKOFF_FIRST_S = 0.8
BACKOFF_MAX_S = 30.0
_RETRY_AFTER_MAX_S = 60.0


@dataclass(frozen=True, slots=True)
class Timing:
    """The clock, and how long a connection may be silent."""

    now: Callable[[], float] = monotonic
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    chance: Callable[[], float] = random.random
    """Evenly spread, from 0 to 1: thousands of nodes should not come back in the same moment."""
    silence_max_s: float = 150.0
    """An API server sends a bookmark every minute; after two and a half the connection is dead."""

    def watch_timeout_s(self) -> int:
        """For how long one watch may last: 5 to 10 minutes, as client-go's."""
        return int(300 * (1 + self.chance()))


class Backoff:
    """Growing waits: 0.8 s, doubled up to 30 s, each as much longer again as chance will have it
    (client-go's reflector)."""

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance
        self._next_s = BACKOFF_FIRST_S

    @property
    def fresh(self) -> bool:
        """Whether nothing went wrong since the last success."""
        return self._next_s == BACKOFF_FIRST_S

    def reset(self) -> None:
        """Something worked."""
        self._next_s = BACKOFF_FIRST_S

    def wait_s(self, asked_s: float | None = None) -> float:
        """How long to wait now; `asked_s` is what the server asked for (Retry-After)."""
        least_s, self._next_s = self._next_s, min(self._next_s * 2, BACKOFF_MAX_S)
        if asked_s is not None:
            least_s = min(asked_s, _RETRY_AFTER_MAX_S)
        return least_s * (1 + self._chance())
