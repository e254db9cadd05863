"""Reading files that somebody else may replace by something else.

Owns that nothing but a regular file is opened to be read, and that opening never waits: a FIFO in a
directory of manifests would wait for a writer, for ever, and take the thread with it.
"""

import errno
import os
import stat
from pathlib import Path


def read_regular(path: str | Path) -> bytes:
    """The content of a regular file, or of what a link leads to. Raises OSError, also for all else."""
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(opened, "rb") as file:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return file.read()
