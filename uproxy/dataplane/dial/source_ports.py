"""Local ports for dials, chosen by hand when the kernel has none to give.

A proxy that passes the client's end on is the first to close, so its port rests in TIME_WAIT
for a minute: some 28,000 connections a minute to one endpoint, and connect(2) says
EADDRNOTAVAIL. A socket that is bound to such a port before it connects may take it over at
once, as long as TCP timestamps tell old segments from new ones (RFC 6191; the kernel's
tcp_twsk_unique). HAProxy's `source` port ranges rest on the same rule. Needs no sysctl.

A dial from the client's own address begins with the client's own port, and goes round the same
range when that is taken.
"""

import errno
import socket
from pathlib import Path

from uproxy.dataplane.dial.sockets import begin_connect, make_transparent, stream_to

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LINUX_DEFAULT = (32768, 60999)
_TRIES = 64
_TAKEN = frozenset((errno.EADDRNOTAVAIL, errno.EADDRINUSE))


def local_port_range() -> tuple[int, int]:
    """The first and the last port that this machine gives out by itself; ip(7)."""
    try:
        first, last = map(int, _RANGE.read_text().split())
    except OSError:  # not every kernel tells (gVisor)
        return _LINUX_DEFAULT
    return first, last


class SourcePorts:
    """Goes round the machine's range of local ports."""

    def __init__(self) -> None:
        self._first, self._last = local_port_range()
        self._next = self._first

    def dial(self, family: int, address: tuple[str, int], mark: int) -> tuple[int, socket.socket | None]:
        """Begin to connect from one of the ports: a socket, with 0 when it is connected already,
        EALREADY when that goes on; or an errno alone. Raises OSError when there is no socket."""
        for _ in range(_TRIES):
            stream = stream_to(family, mark)
            code = self._try(stream, address)
            if code in (0, errno.EALREADY):
                return code, stream
            stream.close()
            if code not in _TAKEN:
                return code, None
        return errno.EADDRNOTAVAIL, None

    def dial_as(
        self, client: tuple[str, int], family: int, address: tuple[str, int], mark: int
    ) -> tuple[int, socket.socket | None]:
        """The same from a client's address, and from its port if that is free."""
        ip, port = client
        for _ in range(_TRIES):
            stream = stream_to(family, mark)
            make_transparent(stream, mark)
            code = _connect_from(stream, (ip, port), address)
            if code in (0, errno.EALREADY):
                return code, stream
            stream.close()
            if code not in _TAKEN:
                return code, None
            port = self._next_port()
        return errno.EADDRNOTAVAIL, None

    def _try(self, stream: socket.socket, address: tuple[str, int]) -> int:
        return _connect_from(stream, ("", self._next_port()), address)

    def _next_port(self) -> int:
        port, self._next = self._next, self._next + 1
        if self._next > self._last:
            self._next = self._first
        return port


def _connect_from(stream: socket.socket, source: tuple[str, int], address: tuple[str, int]) -> int:
    try:
        stream.bind(source)
    except PermissionError:  # a client's port below 1024, without CAP_NET_BIND_SERVICE
        return errno.EADDRINUSE
    except OSError as error:
        return error.errno or errno.EADDRINUSE
    return begin_connect(stream, address)
