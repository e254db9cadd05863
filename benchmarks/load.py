"""The load generator, load.c: compiled when it is out of date, and run inside a host of the lab."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from uproxy.errors import CommandFailed
from uproxy.kit.lab import Host

_SOURCE = Path(__file__).with_name("load.c")
_PROGRAM = Path(__file__).with_name("load")

ECHO_PORT = 8080
DISCARD_PORT = ECHO_PORT + 1
"""load.c has the discard port right above the echo port."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What the client does; `mode` is load.c's rr, crr or bulk."""

    name: str
    mode: str
    connections: int
    message_bytes: int

    @property
    def is_bulk(self) -> bool:
        """Whether operations are bytes, sent to the discard port."""
        return self.mode == "bulk"


@dataclass(frozen=True, slots=True)
class Result:
    """One run as the client saw it. `ops` are exchanges, or bytes for bulk; `cpu_s` is the client's."""

    ops: int
    seconds: float
    errors: int
    p50_us: int
    p99_us: int
    cpu_s: float

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.ops / self.seconds


def build() -> None:
    """Compile the generator, unless it is newer than its source. Raises CommandFailed."""
    if _PROGRAM.exists() and _PROGRAM.stat().st_mtime > _SOURCE.stat().st_mtime:
        return
    if shutil.which("cc") is None:
        raise CommandFailed("cc is not installed (apt-get install gcc libc6-dev)")
    subprocess.run(  # noqa: TID251  a benchmark is synchronous
        ["cc", "-O2", "-Wall", "-Wextra", "-o", _PROGRAM, _SOURCE], check=True
    )


@contextmanager
def server(host: Host) -> Iterator[int]:
    """Serve echo and discard on `host`; yields the server's pid."""
    process = host.exec(str(_PROGRAM), "serve", host.ip4, str(ECHO_PORT), stdout=subprocess.PIPE, text=True)
    if process.stdout is None or process.stdout.readline() != "serving\n":
        raise CommandFailed(f"the load server did not start on {host.name}")
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def run(host: Host, address: str, port: int, workload: Workload, seconds: float) -> Result:
    """Apply one workload from `host` to the echo `port` of `address`, or the discard port above it."""
    done = host.run(
        str(_PROGRAM),
        workload.mode,
        address,
        str(port + 1 if workload.is_bulk else port),
        str(workload.connections),
        str(workload.message_bytes),
        str(seconds),
    )
    return Result(**json.loads(done.stdout))
