"""uproxy with instruments: `python -m benchmarks.at_scale.observed FIGURES run ...`.

Owns what can only be seen from inside: how long the event loop was held up, from a ticker that is
due every millisecond; and how long a change took from its line of the watch to the end of its
programming. At SIGUSR1 the figures since the last time are written to the file.
"""

import asyncio
import gc
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from uproxy import cli
from uproxy.app.proxy import Proxy
from uproxy.reconcile.loop import ReconcileLoop
from uproxy.sources.kubernetes.intake import Intake
from uproxy.state.store import Store

TICK_S = 0.001


class Figures(msgspec.Struct):
    """What was seen since the last time somebody asked."""

    stall_s: float = 0.0
    """By how much the latest tick was late."""
    stall_cpu_s: float = 0.0
    """CPU time of the loop's own thread in the longest such gap: what is left of a stall when the
    machine's other programs are taken away."""
    stalls_s: list[float] = []
    """Of a millisecond and more."""
    cpu_s: float = 0.0
    """All that the loop's own thread used."""
    lines: int = 0
    """Of watches."""
    changes_s: list[float] = []
    """From the first line of a batch until it was programmed."""
    programmed_at_s: float = 0.0
    pending: bool = False
    """Whether events that have come are not programmed yet."""
    collections: int = 0
    """Of the oldest generation."""


class Instruments:
    """Around the running parts; each takes well below a microsecond a call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.figures = Figures()
        self.line_at_s = 0.0
        """When the newest line came."""
        self.came_at_s = 0.0
        """When the oldest came that programming has not begun with; 0 for none."""
        self.begun_at_s = 0.0
        """The same of what is being programmed."""

    def install(self) -> None:
        """Put them in place, before anything runs."""
        self._around_run()
        self._around_lines()
        self._around_programming()
        gc.callbacks.append(self._collected)

    def write(self) -> None:
        """Write what was seen, and begin anew."""
        self.figures.pending = bool(self.came_at_s or self.begun_at_s)
        unseen = self.path.with_suffix(".new")
        unseen.write_bytes(msgspec.json.encode(self.figures))
        unseen.replace(self.path)
        self.figures = Figures()

    async def tick(self) -> None:
        """Be due every millisecond, and note by how much that fails."""
        before_s, cpu_s = time.perf_counter(), time.thread_time()
        while True:
            await asyncio.sleep(TICK_S)
            now_s, now_cpu_s = time.perf_counter(), time.thread_time()
            late_s = now_s - before_s - TICK_S
            figures = self.figures
            figures.stall_s = max(figures.stall_s, late_s)
            figures.stall_cpu_s = max(figures.stall_cpu_s, now_cpu_s - cpu_s)
            if late_s >= TICK_S:
                figures.stalls_s.append(late_s)
            figures.cpu_s += now_cpu_s - cpu_s
            before_s, cpu_s = now_s, now_cpu_s

    def _around_run(self) -> None:
        run = Proxy.run

        async def observed(proxy: Proxy, *arguments: Any) -> None:
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGUSR1, self.write)
            ticker = asyncio.ensure_future(self.tick())
            try:
                await run(proxy, *arguments)
            finally:
                ticker.cancel()

        Proxy.run = observed  # type: ignore[method-assign]

    def _around_lines(self) -> None:
        line = Intake.line

        def observed(intake: Intake, text: bytes) -> Any:
            self.figures.lines += 1
            self.line_at_s = time.perf_counter()
            return line(intake, text)

        Intake.line = observed  # type: ignore[method-assign]

    def _around_programming(self) -> None:
        emit, applying, program = ReconcileLoop.emit, Store.applying, ReconcileLoop._program

        def emitted(loop: ReconcileLoop, event: Any) -> None:
            self.came_at_s = self.came_at_s or self.line_at_s
            emit(loop, event)

        def begun(store: Store, events: Any) -> Any:
            self.begun_at_s, self.came_at_s = self.came_at_s, 0.0
            return applying(store, events)

        async def observed(loop: ReconcileLoop, changes: Any) -> None:
            await program(loop, changes)
            if self.begun_at_s:
                self.figures.changes_s.append(time.perf_counter() - self.begun_at_s)
            self.begun_at_s = 0.0
            self.figures.programmed_at_s = time.monotonic()

        ReconcileLoop.emit = emitted  # type: ignore[method-assign]
        Store.applying = begun  # type: ignore[method-assign]
        ReconcileLoop._program = observed  # type: ignore[method-assign]

    def _collected(self, phase: str, info: Mapping[str, int]) -> None:
        self.figures.collections += phase == "stop" and info["generation"] == 2


def main() -> int:
    """Run uproxy's command line."""
    Instruments(Path(sys.argv[1])).install()
    return cli.main(sys.argv[2:])


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
