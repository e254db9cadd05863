"""The page /statusz: since when this process runs, and what it is.

Owns the words, which are those of Kubernetes' own components (KEP-4827, as text). Refuses to say what
is programmed: that is for metrics and `/services`.
"""

import platform
from collections.abc import Iterable
from datetime import datetime

from uproxy import __version__

_WARNING = (
    "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility "
    "guarantees and is for debugging purposes only."
)


def statusz(started: datetime, now: datetime, paths: Iterable[str]) -> str:
    """The page; `paths` are those of the address that serves it."""
    minutes, seconds = divmod(int((now - started).total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    lines = (
        "uproxy statusz",
        _WARNING,
        "",
        f"Started: {started:%a %b %d %H:%M:%S UTC %Y}",
        f"Up: {hours} hr {minutes:02} min {seconds:02} sec",
        f"Python version: {platform.python_version()}",
        f"Binary version: {__version__}",
        f"Paths: {' '.join(paths)}",
    )
    return "\n".join(lines) + "\n"
