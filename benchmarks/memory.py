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

from uproxy.bench.costs import rss_bytes
from uproxy.bench.paths import PEERS, TrafficPath, known_paths
from uproxy.bench.programs import wait_until
from uproxy.bench.sites import Pod, accepts, lab_site
from uproxy.dataplane.relay.native_relay import engine_or_reason
from uproxy.errors import CommandFailed
from uproxy.kit.lab import Host, reason_unavailable

_LEFT_OUT = "kernel-dnat"
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

    def __init__(self, pod: Pod) -> None:
        self.sent = 0
        self._newest: socket.socket | None = None
        self._listener = pod.place.socket()
        self._listener.bind((pod.ip, pod.port))
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
    print(f"{'path':<24}{'sent MiB':>10}{'RSS +MiB':>10}{'sockets +MiB':>14}{'pipes +MiB':>12}")
    try:
        for path in known_paths(PEERS, None, "python" if engine_or_reason() else "native"):
            if path.missing:
                print(f"left out: {path.name}: {path.missing}")
            elif path.name != _LEFT_OUT:
                print(_row(path.name, *_measure(path)), flush=True)
    except CommandFailed as error:
        print(f"memory: {error}", file=sys.stderr)
        return 1
    return 0


def _measure(path: TrafficPath) -> tuple[int, Held, Held]:
    """Return what the pod sent until it stalled, and what the node held before and then."""
    with lab_site() as site, _source(site.pods[0]) as source, path.build(site, 0) as built:
        built.wait_ready()
        address = (built.one.ip, built.one.port)
        wait_until(partial(accepts, site.client, *address), f"{path.name} to accept")
        node, pids = site.lab.node, site.lab.node.pids()
        before = _held(node, pids)
        with site.client.socket() as client:
            client.connect(address)
            _wait_for_stall(source)
            return source.sent, before, _held(node, pids)


@contextmanager
def _source(pod: Pod) -> Iterator[Source]:
    source = Source(pod)
    try:
        yield source
    finally:
        source.close()


def _wait_for_stall(source: Source) -> None:
    deadline = time.perf_counter() + _STALL_TIMEOUT_S
    before = -1
    while source.sent != before or not before:
        if time.perf_counter() > deadline:
            raise CommandFailed(f"the pod still sends after {_STALL_TIMEOUT_S:g} s: nothing holds it back")
        before = source.sent
        time.sleep(_STALLED_S)


def _held(node: Host, pids: Sequence[int]) -> Held:
    sockets = _SOCKET_MEMORY.findall(node.run("ss", "-tmnH").stdout)
    return Held(
        rss=rss_bytes(pids),
        sockets=sum(int(received) + int(queued) for received, queued in sockets),
        pipes=sum(map(_pipe_bytes, pids)),
    )


def _pipe_bytes(pid: int) -> int:
    """Count what sits unread in a process's pipes, each once though it has two ends."""
    pipes = {}
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(descriptor.readlink())
        except FileNotFoundError:
            continue  # closed since the listing
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
        f"{name:<24}{sent / 2**20:>10.1f}{(after.rss - before.rss) / 2**20:>10.1f}"
        f"{(after.sockets - before.sockets) / 2**20:>14.1f}"
        f"{(after.pipes - before.pipes) / 2**20:>12.1f}"
    )


if __name__ == "__main__":
    sys.exit(main())
