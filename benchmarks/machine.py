"""What a recorded figure was measured on: the machine, the versions, the commit."""

import os
import platform
import subprocess
import sys
from pathlib import Path

_REPOSITORY = Path(__file__).parents[1]


def describe() -> dict[str, str]:
    """Name everything that may explain a difference between two runs."""
    return {
        "cpus": str(os.cpu_count()),
        "cpu": _cpu_model(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "haproxy": _first_line("haproxy", "-v"),
        "nginx": _first_line("nginx", "-v"),
        "commit": _first_line("git", "-C", str(_REPOSITORY), "describe", "--always", "--dirty"),
        "command": " ".join(sys.orig_argv[1:]),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.machine()


def _first_line(*argv: str) -> str:
    try:
        done = subprocess.run(  # noqa: TID251  a benchmark is synchronous
            argv, capture_output=True, text=True, check=False
        )
    except OSError:
        return "not installed"
    return ((done.stdout + done.stderr).strip().splitlines() or ["unknown"])[0]
