"""Work that blocks, in a thread that nobody has to wait for.

Not asyncio.to_thread: its threads are joined at the end of the process, so that one that hangs, in a
network disk say, holds the process up for ever. What is still at work here when the process ends is left.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(work: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
    """Run `work` in a thread of its own; returns and raises what it does. Cancelled, it runs on, unheard."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(call: Callable[..., object], value: object) -> None:
        if not done.done():
            call(value)

    def run() -> None:
        call: Callable[[Any], None]
        value: object
        try:
            call, value = done.set_result, work(*args, **more)
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            call, value = done.set_exception, error
        try:
            loop.call_soon_threadsafe(settle, call, value)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more

    threading.Thread(target=run, name=getattr(work, "__name__", "work"), daemon=True).start()
    return await done
