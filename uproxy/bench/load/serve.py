"""The server side: sockets on one port for TCP and UDP, and who serves them until a signal.

Owns listening and ending. What is answered is native/server.c's business, or python/server.py's.
"""

import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable

from uproxy.bench.load import wire
from uproxy.bench.load.faulty import Faults
from uproxy.errors import UproxyError

_BACKLOG = 4096
_SIGNALS = {signal.SIGTERM, signal.SIGINT}
_ATTEMPTS = 20
"""Port 0: one free for TCP may be taken for UDP."""

Serve = Callable[[socket.socket, socket.socket, str, Faults], None]


def default_name() -> str:
    """Return the end of the host's name: of pods of one Deployment, the part that differs."""
    return socket.gethostname()[-wire.NAME :]


def bind(ip: str, port: int) -> tuple[socket.socket, socket.socket]:
    """Listen on one port for TCP and UDP; 0 chooses one that is free for both.

    Raises UproxyError.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        listener = _bound(ip, port, socket.SOCK_STREAM)
        listener.listen(_BACKLOG)
        try:
            return listener, _bound(ip, listener.getsockname()[1], socket.SOCK_DGRAM)
        except UproxyError:
            listener.close()
            if port or attempt == _ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def serve_until_signal(ip: str, port: int, name: str, faults: Faults, serve: Serve) -> None:
    """Serve, and return upon SIGTERM or SIGINT. Prints `serving IP:PORT` once it answers.

    Raises UproxyError when the address cannot be bound.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # threads started from here inherit it
    listener, datagrams = bind(ip, port)
    bound = listener.getsockname()[1]
    sys.stdout.write(f"serving {f'[{ip}]' if ':' in ip else ip}:{bound}\n")
    sys.stdout.flush()
    thread = threading.Thread(
        target=_serve_or_die, args=(serve, listener, datagrams, name, faults), name="serve", daemon=True
    )
    thread.start()
    signal.sigwait(_SIGNALS)


def serve_native(listener: socket.socket, datagrams: socket.socket, name: str, faults: Faults) -> None:
    """Serve by the C extension, for ever."""
    from uproxy.bench.load import _native

    _native.serve(
        listener=listener.fileno(),
        datagrams=datagrams.fileno(),
        name=name,
        constant_s=faults.constant_s,
        slow_share=faults.slow_share,
        slow_s=faults.slow_s,
        stall_period_s=faults.stall_period_s,
        stall_s=faults.stall_s,
        error_share=faults.error_share,
    )


def _serve_or_die(
    serve: Serve, listener: socket.socket, datagrams: socket.socket, name: str, faults: Faults
) -> None:
    try:
        serve(listener, datagrams, name, faults)
    except BaseException:  # noqa: BLE001  nobody waits for this thread
        traceback.print_exc()
    finally:  # a server that serves no more must not look alive
        os._exit(1)


def _bound(ip: str, port: int, kind: socket.SocketKind) -> socket.socket:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    made = socket.socket(family, kind)
    try:
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setblocking(False)
        made.bind((ip, port))
    except OSError as error:
        made.close()
        raise UproxyError(f"cannot listen on {ip} port {port}: {error.strerror}") from error
    return made
