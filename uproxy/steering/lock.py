"""One uproxy at a time may program a machine's network.

Owns the lock: an abstract Unix socket (unix(7)). It belongs to the network namespace, as
rules and routes do, and it is gone with the process that held it, however that ended. Whoever
is to hold it next can wait at it (`knock`); what the two say to each other is `app/succession.py`.
"""

import os
import select
import socket
import struct

from uproxy.errors import UproxyError

HELD = "another uproxy programs this machine's network: stop it first"
_NAME = "\0uproxy/steering"
_BACKLOG = 8
_STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_UCRED = struct.Struct("3i")
"""Process, user and group (unix(7), SO_PEERCRED)."""


class SteeringLock:
    """Held from the start until `release`."""

    def __init__(self) -> None:
        """Take the lock. Raises UproxyError while another process has it."""
        self._socket = socket.socket(socket.AF_UNIX, _STREAM)
        try:
            self._socket.bind(_NAME)
            self._socket.listen(_BACKLOG)
        except OSError as error:
            self._socket.close()
            raise UproxyError(HELD) from error

    def fileno(self) -> int:
        """Readable when somebody has come."""
        return self._socket.fileno()

    def visitors(self) -> list[socket.socket]:
        """Those that have come to wait at the lock, and are the same user or root."""
        found: list[socket.socket] = []
        while True:
            try:
                visitor, _ = self._socket.accept()
            except OSError:
                return found
            visitor.setblocking(False)
            if _user(visitor) in (0, os.geteuid()):
                found.append(visitor)
            else:
                visitor.close()

    def release(self) -> None:
        """Let others have it."""
        self._socket.close()


def knock() -> socket.socket:
    """Wait at the lock: a connection to whoever holds it, which ends with that process.

    Raises OSError when nobody holds it, or it is held by a version that opens to nobody.
    """
    visitor = socket.socket(socket.AF_UNIX, _STREAM)
    try:
        visitor.connect(_NAME)
        if _user(visitor) not in (0, os.geteuid()):
            raise PermissionError("the lock is held by somebody else")
    except OSError:
        visitor.close()
        raise
    return visitor


def is_gone(peer: socket.socket) -> bool:
    """Whether the other side has ended, whatever it said before."""
    poll = select.poll()
    poll.register(peer, select.POLLRDHUP)
    return bool(poll.poll(0))


def _user(peer: socket.socket) -> int:
    _, user, _ = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(user)
