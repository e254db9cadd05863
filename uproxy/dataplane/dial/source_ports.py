"""Local ports for dials, chosen by hand when the kernel has none to give.

A proxy that passes the client's end on is the first to close, so its port rests in TIME_WAIT
for a minute: some 28,000 connections a minute to one endpoint, and connect(2) says
EADDRNOTAVAIL. A socket that is bound to such a port before it connects may take it over at
once, as long as TCP timestamps tell old segments from new ones (RFC 6191; the kernel's
tcp_twsk_unique). HAProxy's `source` port ranges rest on the same rule. Needs no sysctl.

A dial from a client's own address never comes from the client's own port, nor from one that a client's
kernel would choose: the client may talk to the same endpoint directly, from any of its ports, and two
connections between the same two ports are one to the endpoint and to conntrack. Its answers would
come here, and neither side would ever be told (docs/decisions/0015-source-ports.md).
"""

import errno
import socket
from collections.abc import Callable
from pathlib import Path

from uproxy.dataplane.dial.sockets import (
    begin_connect,
    datagrams_from,
    datagrams_to,
    make_transparent,
    stream_to,
)

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LINUX_DEFAULT = (32768, 60999)
_TRIES = 64
CLIENT_PORTS = (4096, 29_999)
"""Below what Linux, Windows and the BSDs choose by themselves, and below NodePorts."""
_TAKEN = frozenset((errno.EADDRNOTAVAIL, errno.EADDRINUSE))


def local_port_range() -> tuple[int, int]:
    """The first and the last port that this machine gives out by itself; ip(7)."""
    try:
        first, last = map(int, _RANGE.read_text().split())
    except OSError:  # not every kernel tells (gVisor)
        return _LINUX_DEFAULT
    return first, last


class PortRange:
    """Goes round a range of ports."""

    def __init__(self, first: int, last: int) -> None:
        self._first, self._last = first, last
        self._next = first

    def next(self, other_than: int = 0) -> int:
        """The next one."""
        port = self._next
        self._next = port + 1 if port < self._last else self._first
        return port if port != other_than else self.next()


class SourcePorts:
    """Goes round the machine's range of local ports, and the one for clients' addresses."""

    def __init__(self) -> None:
        self._ours, self._clients = PortRange(*local_port_range()), PortRange(*CLIENT_PORTS)

    def dial(
        self, family: int, address: tuple[str, int], mark: int, hops: int
    ) -> tuple[int, socket.socket | None]:
        """Begin to connect from one of the ports: a socket, with 0 when it is connected already,
        EALREADY when that goes on; or an errno alone. Raises OSError when there is no socket."""
        return _dial(lambda: stream_to(family, mark, hops), lambda stream: self._try(stream, address))

    def dial_as(
        self, client: tuple[str, int], family: int, address: tuple[str, int], mark: int, hops: int
    ) -> tuple[int, socket.socket | None]:
        """The same from a client's address, and not from its port."""
        ip, own = client

        def transparent() -> socket.socket:
            stream = stream_to(family, mark, hops)
            make_transparent(stream, mark)
            return stream

        return _dial(
            transparent, lambda stream: _connect_from(stream, (ip, self._clients.next(own)), address)
        )

    def datagrams_as(
        self, client: tuple[str, int], family: int, address: tuple[str, int], mark: int
    ) -> socket.socket:
        """A datagram socket connected to `address`, from a client's address and not from its port; from
        our own address when no port is to be had. Raises OSError."""
        ip, own = client
        for _ in range(_TRIES):
            sock = datagrams_from((ip, self._clients.next(own)), family, address, mark)
            if sock is not None:
                return sock
        return datagrams_to(family, address, mark)

    def _try(self, stream: socket.socket, address: tuple[str, int]) -> int:
        return _connect_from(stream, ("", self._ours.next()), address)


def _connect_from(stream: socket.socket, source: tuple[str, int], address: tuple[str, int]) -> int:
    try:
        stream.bind(source)
    except PermissionError:  # a client's port below 1024, without CAP_NET_BIND_SERVICE
        return errno.EADDRINUSE
    except OSError as error:
        return error.errno or errno.EADDRINUSE
    return begin_connect(stream, address)


def _dial(
    open_stream: Callable[[], socket.socket], connect: Callable[[socket.socket], int]
) -> tuple[int, socket.socket | None]:
    """Connect from one port after the other, until one is not taken."""
    for _ in range(_TRIES):
        stream = open_stream()
        code = connect(stream)
        if code in (0, errno.EALREADY):
            return code, stream
        stream.close()
        if code not in _TAKEN:
            return code, None
    return errno.EADDRNOTAVAIL, None
