"""The load generator and its server, which are programs of their own: started and asked.

Owns that a plan goes in and an outcome comes out. What they do is `uproxy.bench.load`'s business.
"""

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import msgspec

from uproxy.bench.load.plan import LoadOutcome, LoadPlan
from uproxy.bench.programs import Program, running
from uproxy.bench.resident import Answer
from uproxy.bench.sites import Place, Pod, start
from uproxy.errors import CommandFailed

_MARGIN_S = 20.0
"""For starting, for opening connections, and for waiting for the last answers."""


class NotAnswered(CommandFailed):
    """The generator is well, but nobody answers a plan as he should."""


@contextmanager
def serving(pod: Pod) -> Iterator[Program]:
    """Start the server of one pod; `wait_serving` tells when it listens."""
    argv = (sys.executable, "-m", "uproxy.bench.load", "serve", f"{pod.ip}:{pod.port}", "--name", pod.name)
    with running(f"the server of {pod.name}", pod.place, *argv) as program:
        yield program


def wait_serving(server: Program) -> None:
    """Return when a server takes connections; CommandFailed when it does not come to that."""
    server.wait_until(lambda: "serving " in server.log, "to listen")


@contextmanager
def generator(client: Place) -> Iterator["Generator"]:
    """Start a generator on a host. What it was doing is given up at the end of the block."""
    argv = (sys.executable, "-m", "uproxy.bench.resident")
    process = start(client, *argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if process.stdin is None or process.stdout is None:
        raise CommandFailed("the load generator has no standard input and output")
    with process.stdin, process.stdout:
        try:
            yield Generator(process.pid, process.stdin, process.stdout)
        finally:
            process.kill()
            process.wait()


class Generator:
    """Carries out one plan after the other."""

    def __init__(self, pid: int, plans: IO[bytes], answers: IO[bytes]) -> None:
        self.pid = pid
        self._plans = plans
        self._answers = answers
        self._patience_s = 0.0

    def begin(self, plan: LoadPlan) -> None:
        """Have a plan carried out; `outcome` waits for its end."""
        self._patience_s = plan.warmup_s + plan.duration_s + plan.timeout_s + _MARGIN_S
        try:
            self._plans.write(msgspec.json.encode(plan) + b"\n")
            self._plans.flush()
        except BrokenPipeError as error:
            raise CommandFailed("the load generator has ended by itself") from error

    def outcome(self) -> LoadOutcome:
        """Wait for the end of what was begun. Raises NotAnswered, with the generator's own words, and
        CommandFailed when it has none."""
        answer = msgspec.json.decode(self._line(), type=Answer)
        if answer.outcome is None:
            raise NotAnswered(f"the load generator: {answer.error}")
        return answer.outcome

    def run(self, plan: LoadPlan) -> LoadOutcome:
        """Carry out a plan. Raises CommandFailed."""
        self.begin(plan)
        return self.outcome()

    def has_answered(self) -> bool:
        """Whether what was begun has ended."""
        return bool(select.select([self._answers], [], [], 0)[0])

    def _line(self) -> bytes:
        deadline_s = time.perf_counter() + self._patience_s
        line = b""
        while not line.endswith(b"\n"):
            left_s = deadline_s - time.perf_counter()
            if left_s <= 0 or not select.select([self._answers], [], [], left_s)[0]:
                raise CommandFailed(f"the load generator did not end within {self._patience_s:g} s")
            part = os.read(self._answers.fileno(), 1 << 16)
            if not part:
                raise CommandFailed("the load generator has ended by itself")
            line += part
        return line
