"""Reading a process from the outside: its CPU time, its memory, its HTTP answers."""

import http.client
import os
import time
from collections.abc import Callable
from pathlib import Path

from uproxy.kit.lab import Host

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class TimedOut(Exception):
    """Something that was waited for did not happen."""


def wait_until(condition: Callable[[], bool], what: str, *, timeout_s: float = 30) -> None:
    """Poll until `condition` holds. Raises TimedOut, naming `what`, when it never does."""
    deadline = time.perf_counter() + timeout_s
    while not condition():
        if time.perf_counter() > deadline:
            raise TimedOut(f"{what}: not within {timeout_s:g} s")
        time.sleep(0.005)


def cpu_s(pids: list[int]) -> float:
    """CPU seconds, user and system, of all threads of `pids` so far; proc_pid_stat(5)."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS_PER_S


def rss_bytes(pid: int) -> int:
    """Resident memory of one process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_rss_bytes(pid: int) -> int:
    """Most resident memory that one process ever had (VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0  # a zombie has no memory


def accepts(host: Host, address: str, port: int) -> bool:
    """Whether a TCP connection from `host` is taken."""
    with host.socket() as caller:
        caller.settimeout(1)
        return caller.connect_ex((address, port)) == 0


def http_get(host: Host, port: int, path: str) -> tuple[int, bytes]:
    """Status and body of a GET to loopback inside `host`; status 0 while nobody listens."""
    caller = host.socket()
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.sock = caller
    try:
        caller.settimeout(30)
        caller.connect(("127.0.0.1", port))
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (TimeoutError, ConnectionError):
        return 0, b""
    finally:
        connection.close()
