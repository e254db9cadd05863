"""Pipes for splice(2): made when needed, shared, given back when idle.

A pipe costs two descriptors and, while bytes are in it, memory; so only directions in
full flow have one, and a few empty ones are kept for the next.
"""

import fcntl
import os
from typing import NamedTuple

PIPE_BYTES = 1024 * 1024
"""Unprivileged users may have 64 such pipes (pipe(7)); whoever comes after copies."""
_KEPT = 32


class Pipe(NamedTuple):
    """The two ends of a non-blocking pipe."""

    read_fd: int
    write_fd: int

    def close(self) -> None:
        """Close both ends; bytes inside are lost."""
        os.close(self.read_fd)
        os.close(self.write_fd)


class Pipes:
    """A small pool of empty pipes."""

    def __init__(self) -> None:
        self._idle: list[Pipe] = []

    def take(self) -> Pipe | None:
        """An empty pipe, or None when the machine has none to spare: copying works too."""
        if self._idle:
            return self._idle.pop()
        try:
            pipe = Pipe(*os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError:
            return None
        try:
            fcntl.fcntl(pipe.write_fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:
            pipe.close()  # the user's pipe quota is used up; 64 KiB pipes would be slower than copying
            return None
        return pipe

    def give(self, pipe: Pipe) -> None:
        """Take back an empty pipe."""
        if len(self._idle) < _KEPT:
            self._idle.append(pipe)
        else:
            pipe.close()
