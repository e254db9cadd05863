"""Long work in short portions, so that traffic has its turn in between.

Owns how long a portion may be. Refuses to know what the work is.
"""

import asyncio
from time import perf_counter

PORTION_S = 0.002
"""A new connection waits this long for its turn, twice at most. A turn itself costs some 10 us."""


class Turns:
    """`await turns.pause()` wherever the work may be left for a moment."""

    def __init__(self) -> None:
        self._due_s = perf_counter() + PORTION_S

    async def pause(self) -> None:
        """Let others work when this has taken its time."""
        if perf_counter() >= self._due_s:
            await asyncio.sleep(0)
            self._due_s = perf_counter() + PORTION_S
