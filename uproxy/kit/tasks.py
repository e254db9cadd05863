"""Background tasks: named, held, and fatal when they fail.

The event loop keeps only weak references to tasks; one that nobody holds can vanish in
mid-work. Here each is held until it ends, and a task that raises ends the whole process
in good order, because an exception nobody expected is a bug.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any


class Tasks:
    """The tasks of one process; `failed` resolves to the first exception that escaped one."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self.failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    def start(self, name: str, work: Coroutine[Any, Any, Any]) -> None:
        """Run `work` in the background under `name`."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not self.failed.done():
            self.failed.set_result(error)

    async def stop(self) -> None:
        """Cancel what still runs and wait until it has ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
