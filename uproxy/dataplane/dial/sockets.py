"""Sockets, made with the options that relaying needs.

Options set on a listening socket are inherited by what it accepts (Linux), so an accepted
connection costs no system call for them.
"""

import ctypes
import errno
import os
import socket
import struct
from contextlib import suppress

from uproxy.dataplane.dial.hops import limit_hops, report_hops, save_syn
from uproxy.model.closing import DialFailure
from uproxy.model.names import ADDRESS_FAMILY, IPAddress

BACKLOG = 4096

KEEPALIVE_IDLE_S = 60
"""How long a connection may be silent before its peer is asked whether it is still there."""

UNANSWERED_S = 675
"""How long a peer may leave questions unanswered: nine, 75 s apart, is what Linux gives it (tcp(7))."""
_PROBES_MAX = 127

RECEIVE_BUFFER_BYTES = 256 * 1024
"""What the kernel may hold of a fast sender's bytes, unread (the kernel doubles it, for its own
overhead). Left to itself it would go up to net.ipv4.tcp_rmem, 32 MiB on some machines, for each
stopped reader. Set before the connection: a window once offered is never taken back. 256 KiB
carry 20 Gb/s at a round trip of 0.1 ms, and 40 Mb/s at 50 ms."""

UNSENT_BYTES = 128 * 1024
"""Most that we leave with the kernel beyond what the peer's window takes (tcp(7),
TCP_NOTSENT_LOWAT)."""

_STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_DATAGRAM = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_NOBODY = struct.pack("=H14x", socket.AF_UNSPEC)
_CONNECT = ctypes.CDLL(None).connect  # Python's own knows no AF_UNSPEC
_IP_PKTINFO = 8  # not in Python's socket module
_SO_MARK = 36
_SO_RCVBUFFORCE = 33
_IPV6_FREEBIND = 78
_IP_TRANSPARENT = 19
_IPV6_TRANSPARENT = 75
_SO_ATTACH_REUSEPORT_CBPF = 51
_RETURN_1 = struct.pack("HBBI", 0x06, 0, 0, 1)
"""BPF_RET | BPF_K: the second of a group."""

_OURS_TO_LACK = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC))
"""ENOSPC is fs.epoll.max_user_watches, which all processes of one user share (epoll(7))."""
_OUT_OF_RESOURCES = _OURS_TO_LACK | {errno.EADDRNOTAVAIL}
_UNREACHABLE = frozenset((errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETDOWN))
_OUR_OWN_FAULT = frozenset((errno.EBADF, errno.EFAULT, errno.EINVAL, errno.ENOTSOCK))


def listen_tcp(
    ip: IPAddress, port: int, *, beside_another: bool = False, foreign: bool = False
) -> socket.socket:
    """A non-blocking listener on exactly `ip`, which need not be this machine's where it is `foreign`; an
    IPv6 one takes no IPv4 connections.

    `beside_another` is one that has been shared with us (`share`): this one takes what comes from now on.
    Raises OSError, EADDRINUSE and EADDRNOTAVAIL above all.
    """
    listener = socket.socket(ADDRESS_FAMILY[ip.version], _STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if ip.version == 6:
            _set_ipv6_options(listener)
        _set_stream_options(listener)
        save_syn(listener)
        if foreign:
            make_transparent(listener, 0)
        share(listener, on=beside_another)
        listener.bind((str(ip), port))
        listener.listen(BACKLOG)
        if beside_another:
            _prefer_the_second(listener)
    except OSError:
        listener.close()
        raise
    return listener


def share(server: socket.socket, *, on: bool) -> None:
    """Let another process of this user listen where this one does, or no longer (SO_REUSEPORT, which
    Linux asks of both when the second one binds: the first may be bound already). Nobody else can, who
    does not ask for the same; for TCP, Linux goes on to let in who does."""
    with suppress(OSError):  # then the second one finds the address in use, and tries again
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, on)


def _prefer_the_second(server: socket.socket) -> None:
    """Of two that share an address, have the one that came later take all that is new: what the first
    is handed no more it cannot lose when it closes. Once it is gone this has no effect: an index that
    is none leaves the choice to the kernel (socket(7), SO_ATTACH_REUSEPORT_CBPF)."""
    program = ctypes.create_string_buffer(_RETURN_1)
    with suppress(OSError):
        filter_ = struct.pack("HL", 1, ctypes.addressof(program))
        server.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, filter_)


def stream_to(family: int, mark: int, hops: int = 0) -> socket.socket:
    """A non-blocking socket, ready to connect. `mark` (0 for none) keeps steering off it; `hops` are as for
    `limit_hops`. Raises OSError."""
    stream = socket.socket(family, _STREAM)
    try:
        _set_stream_options(stream)
        # Lets a later dial bind to this one's port while it rests in TIME_WAIT (source_ports.py).
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if mark:
            stream.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
        limit_hops(stream, hops)
    except OSError:
        stream.close()
        raise
    return stream


def make_transparent(sock: socket.socket, mark: int) -> None:
    """Let a socket have addresses that are not this machine's (ip(7), IP_TRANSPARENT). `mark` tells
    the rules that it is ours (0 for none). Raises OSError without CAP_NET_ADMIN."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
    if mark:
        sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)


def peer_of(stream: socket.socket) -> tuple[str, int] | None:
    """Address and port of the peer; None when it has gone already."""
    try:
        host, port = stream.getpeername()[:2]
    except OSError:
        return None
    return host, port


def begin_connect(stream: socket.socket, address: tuple[str, int]) -> int:
    """Begin to connect: 0 when that is done already, EALREADY when it goes on, or an errno."""
    code = stream.connect_ex(address)
    if code == errno.EINPROGRESS:
        # Within one host the handshake is over by now, though connect(2) could not say so.
        # Asking again tells, and saves a round through the event loop.
        code = stream.connect_ex(address)
    return code


def _set_stream_options(stream: socket.socket) -> None:
    """What every connection has from its first packet on."""
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # An urgent byte is one like others (RFC 6093). Else each would be missing from the stream.
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    # TCP_WINDOW_CLAMP would not do: the kernel's tuning moves it along. A kernel that lacks the
    # option (gVisor) has a bound of its own.
    try:
        stream.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
    except OSError:  # without CAP_NET_ADMIN, net.core.rmem_max is the limit
        with suppress(OSError):
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)


def keep_alive(stream: socket.socket) -> None:
    """For a connection that has lived for a while: ask its peer from time to time whether it is there.

    Most connections never live so long, and are spared the system calls and the kernel's timer.
    """
    with suppress(OSError):  # then the idle timeout finds it
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def ask_often(stream: socket.socket, every_s: int) -> None:
    """For one that is half closed: have its peer answer so often, and give it up as late as others."""
    with suppress(OSError):
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, every_s)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, every_s)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, min(_PROBES_MAX, UNANSWERED_S // every_s))
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def bound_unsent(stream: socket.socket) -> None:
    """For a direction in full flow: leave no more than `UNSENT_BYTES` in the kernel."""
    with suppress(OSError):  # not every kernel can (gVisor)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)


def _set_ipv6_options(server: socket.socket) -> None:
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    # Unlike IPv4, a local route alone does not make an IPv6 address bindable (ipv6(7)).
    with suppress(OSError):  # loopback addresses do without, on kernels that lack it
        server.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)


def bind_udp(
    ip: IPAddress, port: int, mark: int = 0, *, beside_another: bool = False, foreign: bool = False
) -> socket.socket:
    """A non-blocking datagram socket on `ip`, which reports the address each datagram came to.

    `beside_another`, `foreign`, and OSError, are as in `listen_tcp`; `mark` as in `make_transparent`.
    """
    server = socket.socket(ADDRESS_FAMILY[ip.version], _DATAGRAM)
    try:
        if ip.version == 6:
            _set_ipv6_options(server)
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            server.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        report_hops(server)
        _ask_for_room(server)
        if foreign:
            make_transparent(server, mark)
        share(server, on=beside_another)
        server.bind((str(ip), port))
        if beside_another:
            _prefer_the_second(server)
    except OSError:
        server.close()
        raise
    return server


def datagrams_to(family: int, address: tuple[str, int], mark: int) -> socket.socket:
    """A non-blocking datagram socket connected to `address`, so that ICMP errors reach it."""
    client = socket.socket(family, _DATAGRAM)
    try:
        if mark:
            client.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
        _ask_for_room(client)
        client.connect(address)
    except OSError:
        client.close()
        raise
    return client


def datagrams_from(
    source: tuple[str, int], family: int, address: tuple[str, int], mark: int
) -> socket.socket | None:
    """The same from an address and port, of which the address need not be ours; None when they are not to
    be had. Raises OSError."""
    sock = socket.socket(family, _DATAGRAM)
    try:
        make_transparent(sock, mark)
        sock.bind(source)
        _ask_for_room(sock)
        sock.connect(address)
        if _has_strays(sock):
            raise OSError(errno.EADDRINUSE, "somebody talks to it")
    except OSError as error:
        sock.close()
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            return None
        raise
    return sock


def _has_strays(datagrams: socket.socket) -> bool:
    """Whether something came between bind(2) and connect(2), when anybody's datagrams would have."""
    try:
        datagrams.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    return True


def _ask_for_room(datagrams: socket.socket) -> None:
    # Room for a burst of the largest datagrams; the kernel cuts it to net.core.rmem_max.
    datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024 * 1024)
    datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1024 * 1024)


def close_with_reset(stream: socket.socket) -> None:
    """Close so that the peer sees a reset, not an orderly end."""
    try:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    except OSError:  # BPF programs of a cgroup may deny it; dissolving the connection says it, too
        _CONNECT(stream.fileno(), _NOBODY, len(_NOBODY))
    stream.close()


def has_failed(stream: socket.socket) -> bool:
    """Whether an error waits in a socket; it is told this once."""
    return stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


def dial_failure(error: int) -> DialFailure:
    """What a connect(2) errno means."""
    if error == errno.ECONNREFUSED:
        return DialFailure.REFUSED
    if error == errno.ETIMEDOUT:
        return DialFailure.TIMEOUT
    if error in _UNREACHABLE:
        return DialFailure.UNREACHABLE
    return DialFailure.NO_RESOURCES if error in _OUT_OF_RESOURCES else DialFailure.OTHER


def ours_to_lack(error: OSError) -> bool:
    """Whether an error tells of this machine, which is out of something, and not of a peer."""
    return error.errno in _OURS_TO_LACK


def is_bug(error: OSError) -> bool:
    """Whether a call was a mistake of the program: no machine's state and no peer makes it fail so."""
    return error.errno in _OUR_OWN_FAULT


def reason(error: OSError) -> str:
    """An OSError in words, without its number."""
    return os.strerror(error.errno).lower() if error.errno else str(error)
