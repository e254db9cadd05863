"""A machine whose kernel is gVisor: Debian's runsc, with a network stack of its own.

Owns running one command in it, as root. The command sees this machine's files, of which it can change
none: what it writes is in memory, and gone with the sandbox. Its network is `lo` alone. Refuses to install
anything.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
_TRIAL_S = 20.0
_INSIDE = "UPROXY_TESTS_IN_GVISOR"


@cache
def reason_unavailable() -> str | None:
    """Why there is no gVisor here; None where there is, and inside of it."""
    if _INSIDE in os.environ:
        return None
    if shutil.which("runsc", path=_PATH) is None:
        return "apt-get install runsc"
    if os.geteuid() != 0:
        return "runsc needs root"
    try:
        status, output = run_in_gvisor(["true"], _TRIAL_S)
    except subprocess.TimeoutExpired:
        return f"runsc does not begin within {_TRIAL_S:g} s"
    return f"runsc fails: {(output.splitlines() or ['without a word'])[-1]}" if status else None


def run_in_gvisor(argv: Sequence[str], timeout_s: float) -> tuple[int, str]:
    """Run a command to its end; returns its exit status and its output. Raises subprocess.TimeoutExpired."""
    # Its default platform wants no device. To a file, in the place of a pipe, it would write over itself.
    options = ("-network=none", "-ignore-cgroups", "-net-raw")
    words = ["setpriv", "--pdeathsig=KILL", "runsc", *options, "do", "-cwd", str(Path.cwd()), *argv]
    with subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PATH": _PATH, _INSIDE: "yes"},
        text=True,
        errors="replace",
    ) as sandbox:
        try:
            output, _ = sandbox.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            sandbox.terminate()  # which it passes on, and takes its sandbox down
            raise
    return sandbox.returncode, output
