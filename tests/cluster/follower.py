"""A `ClusterSource` under test, and what its events amount to."""

import asyncio
from time import monotonic
from typing import Any

from uproxy.model.events import Delete, Event, Synced, Upsert
from uproxy.sources.kubernetes.access import Access
from uproxy.sources.kubernetes.source import ClusterSource
from uproxy.sources.kubernetes.timing import Timing

NODE = "node-1"
PATIENCE_S = 20.0


async def no_wait(_seconds: float) -> None:
    """A wait that takes no time, but lets others work."""
    await asyncio.sleep(0)


class Follower:
    """Folds events, and fails when they contradict each other."""

    def __init__(self, access: Access, *, silence_max_s: float = 60.0, now=monotonic, **options: Any) -> None:
        self.events: list[Event] = []
        self.objects: dict[tuple[type, Any], Any] = {}
        self.synced = 0
        self.waits_s: list[float] = []
        self.may_go_on = asyncio.Event()
        """Cleared, it stops every resource where it would wait."""
        self.may_go_on.set()
        timing = Timing(now, self._wait, lambda: 0.5, silence_max_s)
        self.source = ClusterSource(self.emit, access, NODE, timing=timing, **options)
        self._task: asyncio.Task | None = None

    async def _wait(self, seconds: float) -> None:
        self.waits_s.append(seconds)
        await no_wait(seconds)
        await self.may_go_on.wait()

    def emit(self, event: Event) -> None:
        self.events.append(event)
        match event:
            case Upsert(thing):
                key = (type(thing), thing.key)
                assert self.objects.get(key) != thing, f"told again: {thing}"
                self.objects[key] = thing
            case Delete(thing):
                assert self.objects.pop((type(thing), thing.key)) == thing, "deleted as it never was"
            case Synced():
                self.synced += 1
            case _:
                raise AssertionError(f"a cluster says no such thing: {event}")

    def start(self) -> None:
        self._task = asyncio.ensure_future(self.source.run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def until(self, condition, what: str = "") -> None:
        """Wait for a condition; fails when it does not come, or the source has ended."""
        deadline = monotonic() + PATIENCE_S
        while not condition():
            if self._task is not None and self._task.done():
                self._task.result()
                raise AssertionError("the source has ended")
            assert monotonic() < deadline, f"not seen: {what or condition}; {self.source.status}"
            await asyncio.sleep(0.002)

    def of(self, kind: type) -> dict[str, Any]:
        """The objects of one kind, by name."""
        return {str(key): thing for (its, key), thing in self.objects.items() if its is kind}

    def status(self, resource: str):
        return next(status for status in self.source.status if status.resource == resource)
