"""Which CPU runs what, so that every path has the same two and the scheduler's mood is no factor.

Proxied: client and server on one CPU, the node's programs alone on the other. Without a
program on the node (direct, DNAT) the server has the other CPU. Left to the scheduler, all
may end up on one CPU or not, and the figures of one path differ by tens from run to run.
"""

import os
from collections.abc import Sequence
from pathlib import Path

_CPUS = sorted(os.sched_getaffinity(0))


def place(proxy_pids: Sequence[int], server_pid: int) -> None:
    """Pin everything; clients inherit from this process. With a single CPU there is no choice."""
    if len(_CPUS) < 2:
        return
    _pin(os.getpid(), _CPUS[0])
    for pid in proxy_pids:
        _pin(pid, _CPUS[1])
    _pin(server_pid, _CPUS[0] if proxy_pids else _CPUS[1])


def _pin(pid: int, cpu: int) -> None:
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {cpu})
