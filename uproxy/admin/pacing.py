"""Long work on the event loop, in slices: a scrape of 5,000 Services must not stall traffic."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

_SLICE = 100
"""Service ports at a time: about a millisecond's work."""


async def slices(items: Iterable[T]) -> AsyncIterator[tuple[T, ...]]:
    """`items`, a slice at a time; between two of them traffic passes."""
    rest = iter(items)
    while some := tuple(islice(rest, _SLICE)):
        yield some
        await asyncio.sleep(0)
