"""Standard error that nobody has to wait for.

Owns a bounded amount of text that waits to be written, and the one thread that writes it. A pipe that
nobody reads, a stopped terminal or a full disk costs lines, which are counted, and never the event loop;
nor does it hold up the end of the process for longer than a moment. Once there is room again, a line says
how many were lost.
"""

import atexit
import io
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable

MOST_BYTES = 1 << 20
LAST_WORDS_S = 0.5
"""What the end of the process gives whoever reads."""
_PIECE_BYTES = 1 << 16

_LINGER_S = 0.02
"""The thread ends when there is nothing to write: privileges can only be given up by a process that has
no other threads (`privileges`)."""


class Outlet:
    """Writes lines to a descriptor, in their order, whenever it takes them."""

    def __init__(
        self, descriptor: int, lost_words: Callable[[int], str], most_bytes: int = MOST_BYTES
    ) -> None:
        """`lost_words` makes the line that says how many were lost."""
        self.dropped = 0
        """Lines that were lost since the start."""
        self._descriptor = descriptor
        self._lost_words = lost_words
        self._most = most_bytes
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._untold = 0
        self._changed = threading.Condition()
        self._writing = False
        self._running = False

    def put(self, text: str) -> None:
        """Have a line written, or lost."""
        line = text.encode(errors="backslashreplace")
        with self._changed:
            if self._bytes + len(line) > self._most:
                self._lose(1)
                return
            if self._untold:
                told = self._lost_words(self._untold).encode(errors="backslashreplace")
                self._untold = 0
                self._lines.append(told)
                self._bytes += len(told)
            self._lines.append(line)
            self._bytes += len(line)
            self._start()
            self._changed.notify_all()

    def flush(self, within_s: float = LAST_WORDS_S) -> None:
        """Wait until all is written, or for so long."""
        until_s = time.monotonic() + within_s
        with self._changed:
            while self._lines or self._writing:
                left_s = until_s - time.monotonic()
                if left_s <= 0 or not self._changed.wait(left_s):
                    return

    def _lose(self, count: int) -> None:
        self.dropped += count
        self._untold += count

    def _start(self) -> None:
        if not self._running:
            self._running = True
            threading.Thread(target=self._run, name="log", daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._lines and not self._changed.wait_for(lambda: self._lines, _LINGER_S):
                    self._running = False
                    return
                lines = self._take()
                self._writing = True
            written = self._write(b"".join(lines))
            with self._changed:
                self._writing = False
                if not written:
                    self._lose(len(lines))
                self._changed.notify_all()

    def _take(self) -> list[bytes]:
        """As many as are written at once."""
        taken: list[bytes] = []
        size = 0
        while self._lines and size < _PIECE_BYTES:
            line = self._lines.popleft()
            taken.append(line)
            size += len(line)
        self._bytes -= size
        return taken

    def _write(self, text: bytes) -> bool:
        """Whether all of it could be: a closed pipe, a full disk and a closed descriptor take nothing."""
        rest = memoryview(text)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # somebody has made it so; it is theirs as well
                time.sleep(0.05)
            except OSError:
                return False
        return True


class OutletStream(io.TextIOBase):
    """An outlet as Python's sys.stderr, so that last words and tracebacks wait for nobody either."""

    def __init__(self, outlet: Outlet) -> None:
        self.outlet = outlet
        self._rest = ""

    def write(self, text: str) -> int:
        """Text, of which whole lines are passed on."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self.outlet.put(f"{line}\n")
        return len(text)

    def flush(self) -> None:
        """Pass on the rest. Nobody waits here: the end of the process does, for a moment."""
        if self._rest:
            rest, self._rest = self._rest, ""
            self.outlet.put(rest)

    def writable(self) -> bool:
        """Yes."""
        return True

    def fileno(self) -> int:
        """Raises OSError: what is written there would overtake what waits here."""
        raise io.UnsupportedOperation("fileno")

    def isatty(self) -> bool:
        """No colours."""
        return False


def take_over_stderr(lost_words: Callable[[int], str]) -> Outlet:
    """Have everything that this process says on standard error go through an outlet."""
    _fill_descriptors()
    outlet = Outlet(2, lost_words)
    sys.stderr = OutletStream(outlet)
    atexit.register(outlet.flush)
    return outlet


def _fill_descriptors() -> None:
    """A closed standard descriptor would become a client's connection, with our log lines in it."""
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(opened)
