"""What both ways to a kernel of our own (uml.py, vm.py) are asked for, and answer.

Owns how a command is told to the guest, and choosing the first way that boots here. The command runs as
root, on this machine's files, of which it can change none: what it writes is in the guest's memory, and gone
with it. Its network is empty but for `lo`. Refuses to install or fetch anything.
"""

import os
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.missing_packages import PATH


class NoKernel(Exception):
    """No kernel boots here in this way, and why."""


class KernelFailed(Exception):
    """It booted, and did not live to the command's end."""


class Ended(NamedTuple):
    """A command that has ended."""

    status: int
    output: str


Way = Callable[[Sequence[str], Path, float], Ended]
"""Run a command to its end, with an empty directory for what is needed, in so many seconds.

Raises NoKernel when nothing boots, KernelFailed when there is no exit status."""


def run_by_the_first(ways: Sequence[Way], argv: Sequence[str], state: Path, timeout_s: float) -> Ended:
    """Run a command in a guest. Raises NoKernel with all the reasons, KernelFailed."""
    reasons = []
    for number, way in enumerate(ways):
        own = state / str(number)
        own.mkdir()
        try:
            return way(argv, own, timeout_s)
        except NoKernel as reason:
            reasons.append(str(reason))
    raise NoKernel("; ".join(reasons))


def script(argv: Sequence[str]) -> str:
    """What a shell of the guest is to do: this environment, this folder, the command."""
    named = {name: value for name, value in os.environ.items() if re.fullmatch(r"[A-Za-z_]\w*", name)}
    named["PATH"] = PATH
    exports = [f"export {name}={shlex.quote(value)}" for name, value in named.items()]
    # A session of its own: process group 0 is that of the guest's first process.
    return "\n".join([*exports, f"cd {shlex.quote(str(Path.cwd()))}", f"exec setsid -w {shlex.join(argv)}\n"])


def last_words(log: Path) -> str:
    """What the kernel said at its end."""
    said = log.read_text(errors="replace") if log.exists() else ""
    return "\n".join(line for line in said.splitlines()[-15:] if line.strip())
