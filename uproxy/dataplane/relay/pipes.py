"""Pipes for splice(2): made when needed, shared, given back when idle.

A pipe costs two descriptors and, while bytes are in it, memory; so only directions in
full flow have one, and a few empty ones are kept for the next.
"""

import fcntl
import os
from typing import NamedTuple

from uproxy.dataplane.descriptors import Descriptors
from uproxy.dataplane.trials import splices_exactly

PIPE_BYTES = 256 * 1024
"""Unprivileged users may have 64 such pipes (pipe(7)); whoever comes after copies."""
_KEPT = 32


class Pipe(NamedTuple):
    """The two ends of a non-blocking pipe."""

    read_fd: int
    write_fd: int


class Pipes:
    """A small pool of empty pipes."""

    def __init__(self, descriptors: Descriptors) -> None:
        self._descriptors = descriptors
        self._exact = splices_exactly()
        self._idle: list[Pipe] = []

    def take(self) -> Pipe | None:
        """An empty pipe, or None when there are none to spare: copying works too."""
        if self._idle:
            return self._idle.pop()
        return self._make() if self._exact and self._descriptors.plenty else None

    def _make(self) -> Pipe | None:
        try:
            pipe = Pipe(*os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError:
            return None
        self._descriptors.used += 2
        try:
            fcntl.fcntl(pipe.write_fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:
            self.destroy(pipe)  # the user's quota is used up, and a small pipe is slower than copying
            return None
        return pipe

    def give(self, pipe: Pipe) -> None:
        """Take back an empty pipe."""
        if len(self._idle) < _KEPT and self._descriptors.plenty:
            self._idle.append(pipe)
        else:
            self.destroy(pipe)

    def destroy(self, pipe: Pipe) -> None:
        """Close both ends; bytes inside are lost."""
        os.close(pipe.read_fd)
        os.close(pipe.write_fd)
        self._descriptors.released(2)

    def close(self) -> None:
        """Close those that wait for the next direction."""
        while self._idle:
            self.destroy(self._idle.pop())
