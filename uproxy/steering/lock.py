"""One uproxy at a time may program a machine's network.

Owns the lock: an abstract Unix socket (unix(7)). It belongs to the network namespace, as
rules and routes do, and it is gone with the process that held it, however that ended.
"""

import socket

from uproxy.errors import UproxyError

_NAME = "\0uproxy/steering"


class SteeringLock:
    """Held from the start until `release`."""

    def __init__(self) -> None:
        """Take the lock. Raises UproxyError while another process has it."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.bind(_NAME)
        except OSError as error:
            self._socket.close()
            raise UproxyError("another uproxy programs this machine's network: stop it first") from error

    def release(self) -> None:
        """Let others have it."""
        self._socket.close()
