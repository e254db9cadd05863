"""What relays rest on and not every kernel does, tried once on loopback: gVisor's releases differ.

Owns the trials. Refuses to know relays: they ask, and do without. What cannot be tried is taken for missing,
since doing without is slower and never wrong.
"""

import fcntl
import os
import select
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache

_PATIENCE_S = 1.0
_HALF_BYTES = 64 * 1024
_TWO_HALVES = b"a" * _HALF_BYTES + b"b" * _HALF_BYTES
_SPLICE_FLAGS = 0x01 | 0x02  # SPLICE_F_MOVE | SPLICE_F_NONBLOCK; named in os only from 3.13 on


@cache
def tells_ends() -> bool:
    """Whether an edge says that a peer has finished (EPOLLRDHUP).

    Where it does not (seen in gVisor 20221219, not in 20240729), an end that comes with the last bytes makes
    one edge with them, and after every short read it takes another to find it.
    """
    with suppress(OSError), _joined() as (peer, ended), select.epoll() as trial:
        peer.shutdown(socket.SHUT_WR)
        trial.register(ended, select.EPOLLIN | select.EPOLLRDHUP)
        return any(events & select.EPOLLRDHUP for _, events in trial.poll(_PATIENCE_S))
    return False


@cache
def tells_failures() -> bool:
    """Whether EPOLLERR means that a socket has failed.

    In gVisor (seen in 20221219 and in 20240729) one says so too that both sides have closed in good order,
    while bytes wait in it.
    """
    with suppress(OSError), _joined() as (one, other), select.epoll() as trial:
        trial.register(other, select.EPOLLET)  # what is always reported: EPOLLERR and EPOLLHUP
        one.send(b"unread")
        one.shutdown(socket.SHUT_WR)
        other.shutdown(socket.SHUT_WR)
        events = trial.poll(_PATIENCE_S)
        return bool(events) and not any(mask & select.EPOLLERR for _, mask in events)
    return False


@cache
def splices_exactly() -> bool:
    """Whether more than 64 KiB at once leave a pipe as they came into it: splice(2).

    gVisor 20221219 sends the first 64 KiB again in the place of the next; 20240729 does not.
    """
    with suppress(OSError), _joined() as (source, sink):
        read_fd, write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with closing(os.fdopen(read_fd, "rb", 0)), closing(os.fdopen(write_fd, "wb", 0)):
            fcntl.fcntl(write_fd, fcntl.F_SETPIPE_SZ, len(_TWO_HALVES))
            if os.write(write_fd, _TWO_HALVES) == len(_TWO_HALVES):
                return _spliced(read_fd, source, sink) == _TWO_HALVES
    return False


def _spliced(pipe_fd: int, source: socket.socket, sink: socket.socket) -> bytes:
    """What arrives of what is in the pipe. Raises OSError when it stops arriving."""
    waiting, arrived = len(_TWO_HALVES), b""
    while len(arrived) < len(_TWO_HALVES):
        if waiting:
            with suppress(BlockingIOError):
                waiting -= os.splice(pipe_fd, source.fileno(), waiting, flags=_SPLICE_FLAGS)
        got = sink.recv(len(_TWO_HALVES))
        if not got:
            break
        arrived += got
    return arrived


@contextmanager
def _joined() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a TCP connection; the first does not block, the second does for a moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as one:
        one.settimeout(_PATIENCE_S)
        one.connect(listener.getsockname())
        listener.settimeout(_PATIENCE_S)
        with listener.accept()[0] as other:
            one.setblocking(False)
            other.settimeout(_PATIENCE_S)
            yield one, other
