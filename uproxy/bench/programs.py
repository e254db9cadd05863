"""A proxy or server under measurement: started, waited for, and ended in good order.

Owns its last words: what it printed is told when it ends by itself, and forgotten otherwise.
"""

import http.client
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from uproxy.bench.sites import Place, start
from uproxy.errors import CommandFailed

_END_TIMEOUT_S = 5.0
_POLL_S = 0.005


class Program:
    """One running program."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        """Its process; children are found from there."""
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has printed until now."""
        return self._log.read_text(errors="replace")

    def check(self) -> None:
        """Raises CommandFailed, with its last words, when it has ended."""
        if self._process.poll() is not None:
            words = " / ".join(self.log.strip().splitlines()[-5:]) or "no output"
            raise CommandFailed(f"{self.name} ended by itself, status {self._process.returncode}: {words}")

    def wait_until(self, condition: Callable[[], bool], what: str, *, timeout_s: float = 30) -> None:
        """Poll until `condition` holds; CommandFailed when the program ends, or it never does."""

        def holds() -> bool:
            self.check()
            return condition()

        wait_until(holds, f"{self.name}: {what}", timeout_s=timeout_s)

    def kill(self) -> None:
        """End it at once, as a node out of memory would."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """Ask it to end, then make it."""
        self._process.terminate()
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()


@contextmanager
def running(name: str, place: Place, *argv: str) -> Iterator[Program]:
    """Start a program in `place`, for the length of the block. It may not be ready yet."""
    with TemporaryDirectory(prefix="uproxy-bench-") as folder:
        log = Path(folder, "log")
        with log.open("wb") as output:
            process = start(place, *argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        program = Program(name, process, log)
        try:
            yield program
        finally:
            program.end()


def wait_until(condition: Callable[[], bool], what: str, *, timeout_s: float = 30) -> None:
    """Poll until `condition` holds. Raises CommandFailed, naming `what`, when it never does."""
    deadline_s = time.perf_counter() + timeout_s
    while not condition():
        if time.perf_counter() > deadline_s:
            raise CommandFailed(f"{what}: not within {timeout_s:g} s")
        time.sleep(_POLL_S)


def http_get(place: Place, port: int, path: str) -> tuple[int, bytes]:
    """Status and body of a GET to 127.0.0.1 in `place`; status 0 while nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.sock = place.socket()
    try:
        connection.sock.settimeout(30)
        connection.sock.connect(("127.0.0.1", port))
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()
