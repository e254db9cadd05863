"""What programs and connections cost, read from the outside: CPU time, memory, a busy machine.

Owns /proc. Everything here is a snapshot; what two of them mean is their reader's business.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from uproxy.errors import CommandFailed

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_TICK_NS = 1_000_000_000 // _TICKS_PER_S
_SOCKET_PARTS = ("TCP", "sock_inode_cache", "filp", "dentry", "eventpoll_epi")


@dataclass(frozen=True, slots=True)
class CpuTime:
    """CPU seconds of some programs, all their threads."""

    user_s: float
    system_s: float

    @property
    def total_s(self) -> float:
        """User and system."""
        return self.user_s + self.system_s

    def scaled(self, share: float) -> "CpuTime":
        """A share of it."""
        return CpuTime(self.user_s * share, self.system_s * share)


@dataclass(frozen=True, slots=True)
class Ticks:
    """What /proc tells of some programs' CPU time: an exact sum, and coarse parts of it."""

    total_ns: int
    user: int
    system: int

    def since(self, before: "Ticks") -> CpuTime:
        """Split the exact time that went by as the coarse clock (10 ms) splits it."""
        total_s = (self.total_ns - before.total_ns) / 1e9
        user, system = self.user - before.user, self.system - before.system
        # Less than one tick: as the programs' whole life was split.
        share = user / (user + system) if user + system else self.user / max(1, self.user + self.system)
        return CpuTime(total_s * share, total_s * (1 - share))


def cpu_ticks(pids: Iterable[int]) -> Ticks:
    """CPU time so far of `pids` and what they started; proc_pid_stat(5), sched-stats.

    Raises CommandFailed when one has ended.
    """
    total_ns = user = system = 0
    try:
        for pid in family(pids):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            user, system = user + int(fields[11]), system + int(fields[12])
            alive_ns = sum(_running_ns(task) for task in Path(f"/proc/{pid}/task").iterdir())
            # Threads that have ended are in the coarse figure only.
            total_ns += max(alive_ns, (int(fields[11]) + int(fields[12])) * _TICK_NS)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise CommandFailed(f"a program of this path has ended: {error}") from error
    return Ticks(total_ns, user, system)


def family(pids: Iterable[int]) -> list[int]:
    """`pids`, their children, and so on."""
    found: list[int] = []
    waiting = list(pids)
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            waiting += [int(child) for child in task.read_text().split()]
    return found


def _running_ns(task: Path) -> int:
    try:
        return int((task / "schedstat").read_text().split()[0])
    except (FileNotFoundError, ProcessLookupError):
        return 0  # a thread that ended between listing and reading


def rss_bytes(pids: Iterable[int]) -> int:
    """Resident memory; proc_pid_smaps(5), since /proc/PID/statm may be half a MiB behind (Linux 6.2)."""
    return sum(_rss_kib(pid) for pid in family(pids)) * 1024


def _rss_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Rss:"))


def socket_memory_bytes(pids: Iterable[int]) -> int | None:
    """What the kernel holds for the TCP sockets of these processes' hosts: counted, then weighed.

    A socket is a `TCP`, its inode, an open file, a name and a place in an epoll set; then there are
    conntrack entries. Sizes are slabinfo(5)'s; its own counts, of the whole machine, are of no use:
    what was freed lately is still "active". Buffers are not in it: while idle a connection has none,
    and `mem` in /proc/net/sockstat is of all namespaces. None without root.
    """
    try:
        lines = Path("/proc/slabinfo").read_text().splitlines()[2:]
    except PermissionError:
        return None
    sizes = {line.split()[0]: int(line.split()[3]) for line in lines}
    hosts = {Path(f"/proc/{pid}/ns/net").readlink(): pid for pid in pids}.values()
    sockets = sum(map(sockets_in_use, hosts)) * sum(sizes.get(name, 0) for name in _SOCKET_PARTS)
    tracked = sum(map(_tracked, hosts)) * sizes.get("nf_conntrack", 0)
    return sockets + tracked


def _tracked(pid: int) -> int:
    """Entries in the connection tracking table of a process's network namespace."""
    table = Path(f"/proc/{pid}/net/stat/nf_conntrack")
    return int(table.read_text().splitlines()[1].split()[0], 16) if table.exists() else 0


def sockets_in_use(pid: int) -> int:
    """TCP sockets in use in a process's network namespace, /proc/net/sockstat."""
    lines = Path(f"/proc/{pid}/net/sockstat").read_text().splitlines()
    _, *words = next(line.split() for line in lines if line.startswith("TCP:"))
    return int(words[words.index("inuse") + 1])


def connections_taken(pid: int) -> int:
    """TCP connections accepted so far in a process's network namespace (RFC 4022, PassiveOpens)."""
    names, values = (
        line.split()
        for line in Path(f"/proc/{pid}/net/snmp").read_text().splitlines()
        if line.startswith("Tcp:")
    )
    return int(values[names.index("PassiveOpens")])


def kernel_threads() -> list[int]:
    """The kernel's threads that deliver packets when programs do not get to it: ksoftirqd."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/comm"):
        try:
            if entry.read_text().startswith("ksoftirqd/"):
                found.append(int(entry.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    return found


@dataclass(frozen=True, slots=True)
class MachineTime:
    """CPU seconds of the whole machine since its start."""

    busy_s: float
    stolen_s: float
    """What the hypervisor gave to others while this machine wanted to run."""


def machine_time() -> MachineTime:
    """Read the first line of proc_stat(5)."""
    line = Path("/proc/stat").read_text().partition("\n")[0]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, line.split()[1:9])
    return MachineTime((user + nice + system + irq + softirq) / _TICKS_PER_S, steal / _TICKS_PER_S)
