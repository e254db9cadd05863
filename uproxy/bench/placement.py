"""Which CPU runs what, so that every path has the same ones and the scheduler's mood is no factor.

Small messages, proxied: the proxy has a CPU to itself; client and server have one each, or share
the other where there are two in all. Without a proxy (direct, DNAT) client and server have two.
Left to the scheduler, all may end up on one CPU or not, and the figures of one path differ by
tens of percent from run to run. Streams: every program may use every CPU. With a proxy that
leaves its own half idle, client and server would else be measured, at the end of theirs.
"""

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from uproxy.bench.costs import family

_CPUS = sorted(os.sched_getaffinity(0))


def place(client_pid: int, proxy_pids: Sequence[int], server_pids: Sequence[int], *, apart: bool) -> None:
    """Set the CPUs of everything. One CPU leaves no choice."""
    client, server, proxy = _apart(bool(proxy_pids)) if apart else (_CPUS, _CPUS, _CPUS)
    _pin([client_pid], client)
    _pin(family(proxy_pids), proxy)
    _pin(family(server_pids), server)


def _apart(proxied: bool) -> tuple[list[int], list[int], list[int]]:
    first, second, third = _CPUS[:1], _CPUS[1:2] or _CPUS[:1], _CPUS[2:3]
    if third:
        return first, second, third
    return first, first if proxied else second, second


def _pin(pids: Iterable[int], cpus: Collection[int]) -> None:
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), cpus)
