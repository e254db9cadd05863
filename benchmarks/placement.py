"""Which CPU runs what, so that every path has the same two and the scheduler's mood is no factor.

Small messages, proxied: client and server on one CPU, the node's programs alone on the other.
Without a program on the node (direct, DNAT) the server has the other CPU. Left to the
scheduler, all may end up on one CPU or not, and the figures of one path differ by tens from
run to run. Bulk: every program may use every CPU. With a proxy that leaves its own half idle,
client and server would else be measured, at the end of theirs.
"""

import os
from collections.abc import Collection, Sequence
from pathlib import Path

_CPUS = sorted(os.sched_getaffinity(0))


def place(proxy_pids: Sequence[int], server_pid: int, *, apart: bool) -> None:
    """Set the CPUs of everything; clients inherit from this process. One CPU leaves no choice."""
    first, second = (_CPUS[:1], _CPUS[1:2] or _CPUS[:1]) if apart else (_CPUS, _CPUS)
    _pin(os.getpid(), first)
    for pid in proxy_pids:
        _pin(pid, second)
    _pin(server_pid, first if proxy_pids else second)


def _pin(pid: int, cpus: Collection[int]) -> None:
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), cpus)
