"""A client that stops reading: how much does its connection pile up in each proxy?

    python -m benchmarks.memory

One pod sends without end; the client connects through the path and never reads. Once the pod
can send no more, everything it sent sits somewhere: in the pod's and the client's own sockets
(the direct row has only these), in the node's sockets, in pipes, or in the proxy's memory. As
root, in network namespaces.
"""

import fcntl
import os
import re
import socket
import sys
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.contenders import Contender, contenders
from benchmarks.load import ECHO_PORT
from benchmarks.measure import TimedOut, accepts, rss_bytes, wait_until
from uproxy.errors import CommandFailed
from uproxy.kit.lab import Host, Lab, reason_unavailable

_LEFT_OUT = "dnat"
"""The kernel's own path holds nothing on the node."""
_STALLED_S = 2.0
_STALL_TIMEOUT_S = 60.0
_CHUNK = bytes(256 * 1024)
_SOCKET_MEMORY = re.compile(r"skmem:\(r(\d+),rb\d+,t\d+,tb\d+,f\d+,w(\d+)")


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes on the node: of its programs, its sockets (with the kernel's overhead), its pipes."""

    rss: int
    sockets: int
    pipes: int


class Source:
    """Sends without end on every connection; `sent` is what the newest one's kernel took."""

    def __init__(self, host: Host) -> None:
        self.sent = 0
        self._newest: socket.socket | None = None
        self._listener = host.socket()
        self._listener.bind((host.ip4, ECHO_PORT))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections; those there are end with their clients."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            self._newest, self.sent = connection, 0
            threading.Thread(target=self._send, args=(connection,), daemon=True).start()

    def _send(self, connection: socket.socket) -> None:
        total = 0
        with connection:
            try:
                while True:
                    total += connection.send(_CHUNK)
                    if connection is self._newest:
                        self.sent = total
            except OSError:
                return  # the client is gone


def main() -> int:
    """Measure every path that is installed, and print one line for each."""
    reason = reason_unavailable()
    if reason:
        print(f"memory: {reason}", file=sys.stderr)
        return 1
    print(f"{'path':<17}{'sent MiB':>10}{'RSS +MiB':>10}{'sockets +MiB':>14}{'pipes +MiB':>12}")
    try:
        for contender in contenders():
            if contender.missing:
                print(f"left out: {contender.name} (apt-get install {contender.missing})")
            elif contender.name != _LEFT_OUT:
                print(_row(contender.name, *_measure(contender)), flush=True)
    except (CommandFailed, TimedOut) as error:
        print(f"memory: {error}", file=sys.stderr)
        return 1
    return 0


def _measure(contender: Contender) -> tuple[int, Held, Held]:
    """Return what the pod sent until it stalled, and what the node held before and then."""
    with Lab(pods=1) as lab, _source(lab.pods[0]) as source, contender.up(lab) as address:
        port = address.port
        wait_until(partial(accepts, lab.client, address.ip, port), f"{contender.name} to accept")
        pids = lab.node.pids()
        before = _held(lab.node, pids)
        with lab.client.socket() as client:
            client.connect((address.ip, port))
            _wait_for_stall(source)
            return source.sent, before, _held(lab.node, pids)


@contextmanager
def _source(host: Host) -> Iterator[Source]:
    source = Source(host)
    try:
        yield source
    finally:
        source.close()


def _wait_for_stall(source: Source) -> None:
    deadline = time.perf_counter() + _STALL_TIMEOUT_S
    before = -1
    while source.sent != before or not before:
        if time.perf_counter() > deadline:
            raise TimedOut(f"the pod still sends after {_STALL_TIMEOUT_S:g} s: nothing holds it back")
        before = source.sent
        time.sleep(_STALLED_S)


def _held(node: Host, pids: Sequence[int]) -> Held:
    sockets = _SOCKET_MEMORY.findall(node.run("ss", "-tmnH").stdout)
    return Held(
        rss=sum(map(rss_bytes, pids)),
        sockets=sum(int(received) + int(queued) for received, queued in sockets),
        pipes=sum(map(_pipe_bytes, pids)),
    )


def _pipe_bytes(pid: int) -> int:
    """Count what sits unread in a process's pipes, each once though it has two ends."""
    pipes = {}
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        target = str(descriptor.readlink())
        if target.startswith("pipe:"):
            pipes[target] = descriptor
    return sum(map(_unread, pipes.values()))


def _unread(descriptor: Path) -> int:
    handle = os.open(descriptor, os.O_RDONLY | os.O_NONBLOCK)
    try:
        count = fcntl.ioctl(handle, termios.FIONREAD, bytes(4))
    finally:
        os.close(handle)
    return int.from_bytes(count, sys.byteorder)


def _row(name: str, sent: int, before: Held, after: Held) -> str:
    return (
        f"{name:<17}{sent / 2**20:>10.1f}{(after.rss - before.rss) / 2**20:>10.1f}"
        f"{(after.sockets - before.sockets) / 2**20:>14.1f}"
        f"{(after.pipes - before.pipes) / 2**20:>12.1f}"
    )


if __name__ == "__main__":
    sys.exit(main())
