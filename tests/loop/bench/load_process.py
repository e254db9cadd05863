"""The load server as a process, and the generator in this one: what the tests of both share."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from uproxy.bench.latency import Latencies
from uproxy.bench.load.generate import generate
from uproxy.bench.load.plan import LoadOutcome, LoadPlan

LOAD = (sys.executable, "-m", "uproxy.bench.load")


@contextmanager
def serving(*flags: str, address: str = "127.0.0.1:0") -> Iterator[tuple[str, int]]:
    """Run a server; yields where it listens. It must end well when it is told to."""
    process = subprocess.Popen(
        [*LOAD, "serve", address, "--name", "pod-a", *flags], stdout=subprocess.PIPE, text=True
    )
    try:
        word, _, where = process.stdout.readline().strip().partition(" ")
        assert word == "serving"
        host, _, port = where.rpartition(":")
        yield host.strip("[]"), int(port)
    finally:
        process.terminate()
        process.stdout.close()
        assert process.wait() == 0


def measure(target: tuple[str, int], workload: str, **fields) -> LoadOutcome:
    plan = {"workload": workload, "host": target[0], "port": target[1], "warmup_s": 0.0} | fields
    return generate(msgspec.convert(plan, LoadPlan))


def run_program(stdin: str, *argv: str) -> tuple[int, str, str]:
    """Run `python -m uproxy.bench.load`: its status, stdout, stderr."""
    process = subprocess.Popen(
        [*LOAD, *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    out, err = process.communicate(stdin)
    return process.returncode, out, err


def waits_ms(histogram: str, *percentiles: float) -> list[float]:
    decoded = Latencies.decode(histogram)
    return [decoded.percentile_ns(percentile) / 1e6 for percentile in percentiles]
