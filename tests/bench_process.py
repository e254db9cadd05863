"""`uproxy bench` as a process of its own, run to its end or stopped by a test."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tests.proxy_process import UPROXY
from uproxy.bench.results import Measurement, Results

TIMEOUT_S = 50


@contextmanager
def started(*flags: str, prefix: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    """Begin a run; it is over when the block is."""
    argv = (*prefix, *UPROXY, "bench", *flags)
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@dataclass(frozen=True)
class Done:
    """A run that is over."""

    pid: int
    returncode: int
    stdout: str
    stderr: str


def bench(*flags: str, prefix: tuple[str, ...] = ()) -> Done:
    """Run to the end; its status, and what it printed."""
    with started(*flags, prefix=prefix) as process:
        out, err = process.communicate(timeout=TIMEOUT_S)
        return Done(process.pid, process.returncode, out, err)


def report(directory: Path) -> Results:
    """What a run has written."""
    return msgspec.json.decode((directory / "results.json").read_bytes(), type=Results)


def one(results: Results, path: str, workload: str) -> Measurement:
    """The measurement of a workload over a path."""
    (found,) = (m for m in results.measurements if (m.path, m.workload) == (path, workload))
    return found
