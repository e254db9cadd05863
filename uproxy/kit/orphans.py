"""As process 1 of a container: ending what nobody else waits for.

A process whose parent has ended becomes process 1's child (pid_namespaces(7)), for example what somebody
started by `kubectl exec`. When it ends it stays a zombie until process 1 has asked for its status.

Owns telling them from programs of our own, whose status somebody here waits for: a zombie that is still
there at the next look is nobody's.
"""

import asyncio
import os

from uproxy.kit.endings import children
from uproxy.kit.tasks import Tasks

_BETWEEN_LOOKS_S = 5.0


def look_after_orphans(tasks: Tasks) -> None:
    """As process 1: ask for the status of orphans that have ended, for as long as `tasks` run."""
    if os.getpid() == 1:
        tasks.start("orphans", _reap_for_ever())


async def _reap_for_ever() -> None:
    before: set[int] = set()
    while True:
        await asyncio.sleep(_BETWEEN_LOOKS_S)
        before = reap(before)


def reap(before: set[int]) -> set[int]:
    """Ask for the status of the zombies that were there `before`; returns those that are there now."""
    now = {pid for pid in children() if _is_zombie(pid)}
    for pid in before & now:
        os.waitpid(pid, os.WNOHANG)
    return now - before


def _is_zombie(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False  # whoever waited for it has its status
