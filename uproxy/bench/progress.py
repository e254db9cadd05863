"""How far the run is: one line on a terminal, rewritten in place; nothing anywhere else."""

import shutil
import sys
import time
from types import TracebackType
from typing import Self, TextIO

_BAR = 24


class Progress:
    """Counts seconds of work done against those planned, and learns how long they really take."""

    def __init__(self, planned_s: float, stream: TextIO = sys.stderr) -> None:
        self._planned_s = max(planned_s, 0.1)
        self._stream = stream
        self._shown = stream.isatty()
        self._done_s = 0.0
        self._started_s = time.perf_counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the line empty for what is printed next."""
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def show(self, doing: str) -> None:
        """Say what goes on now."""
        if self._shown:
            line = line_of(self._done_s / self._planned_s, time.perf_counter() - self._started_s, doing)
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(f"\r\x1b[K{line[:width]}")
            self._stream.flush()

    def done(self, planned_s: float) -> None:
        """Count work that was planned to take so long."""
        self._done_s += planned_s


def line_of(share: float, elapsed_s: float, doing: str) -> str:
    """Lay out the bar; the time left follows from what the share done has taken."""
    share = min(share, 1.0)
    filled = round(share * _BAR)
    bar = "#" * filled + "." * (_BAR - filled)
    left = f", {clock(elapsed_s / share - elapsed_s)} left" if share > 0.02 else ""
    return f"[{bar}] {share:4.0%}{left}  {doing}"


def clock(seconds: float) -> str:
    """Minutes and seconds: `0:07`, `12:30`."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    return f"{minutes}:{rest:02}"
