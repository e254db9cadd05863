"""An endpoint comes and goes: how long until traffic follows, and does a client notice?

A client keeps connecting, one connection after the other, and reads who answered. "Added" ends
with the first connection to the new endpoint, "removed" with the last one to the old. Owns its
own servers, which say their name and nothing else. What is changed is what the path is driven
by: a manifest for uproxy, one nft transaction for the kernel; the others stay as they are.
"""

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from uproxy.bench.paths import Address
from uproxy.bench.results import Measurement
from uproxy.bench.sites import Place, Pod
from uproxy.bench.stages import Rising
from uproxy.bench.stats import median
from uproxy.bench.workloads import Churn
from uproxy.errors import CommandFailed

_FOLLOWS_WITHIN_S = 60.0
_QUIET = 50
"""So many connections in a row that miss an endpoint say that it is gone: pods take turns."""
_TIMEOUT_S = 2.0
_POOL = 128


@dataclass(slots=True)
class Caller:
    """Connects again and again, and keeps count of what it saw."""

    place: Place
    address: Address
    errors: int = 0
    longest_gap_s: float = 0.0
    _last_s: float = 0.0
    _pool: list[socket.socket] = field(default_factory=list)

    def ask(self) -> str:
        """Who answers a new connection; empty when nobody does."""
        if not self._pool:
            # Entering a namespace costs more than a connection: make many sockets at once.
            self._pool = self.place.inside(lambda: [socket.socket() for _ in range(_POOL)])
        with self._pool.pop() as caller:
            caller.settimeout(_TIMEOUT_S)
            try:
                caller.connect((self.address.ip, self.address.port))
                name = caller.recv(64).decode()
            except OSError:
                name = ""
        self._count(bool(name))
        return name

    def resume(self) -> float:
        """Begin to ask again: the time since the last answer is not a stall. Returns the time."""
        self._last_s = time.perf_counter()
        return self._last_s

    def close(self) -> None:
        """Close sockets that were never used."""
        for unused in self._pool:
            unused.close()

    def _count(self, answered: bool) -> None:
        if not answered:
            self.errors += 1
            return
        now_s = time.perf_counter()
        self.longest_gap_s = max(self.longest_gap_s, now_s - self._last_s)
        self._last_s = now_s


@contextmanager
def named_servers(pods: Sequence[Pod]) -> Iterator[None]:
    """Answer each connection to a pod with the pod's name, and close it."""
    with ExitStack() as stack:
        for pod in pods:
            stack.enter_context(_named_server(pod))
        yield


@contextmanager
def _named_server(pod: Pod) -> Iterator[None]:
    listener = pod.place.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((pod.ip, pod.port))
    listener.listen(256)
    threading.Thread(target=_serve, args=(listener, pod.name.encode()), daemon=True).start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _serve(listener: socket.socket, name: bytes) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # the listener was shut down
        with connection:
            connection.sendall(name)


def measure_churn(churn: Churn, rising: Rising, changes: int) -> Measurement:
    """Change the endpoints of a path's Service `changes` times, a pod away and back in turns.

    Raises CommandFailed when traffic does not follow.
    """
    address, set_pods = rising.built.all, rising.built.set_pods
    if address is None or set_pods is None:
        raise CommandFailed(f"{rising.stage.path}: its endpoints cannot be changed while it runs")
    kept, moved = rising.site.pods[:2], rising.site.pods[2]
    caller = Caller(rising.site.client, address)
    waits_s = []
    for number in range(changes):
        adds = number % 2 == 1
        started_s = time.perf_counter()
        set_pods((*kept, moved) if adds else kept)
        changed_s = caller.resume()
        followed_s = _first_of(caller, moved.name) if adds else _last_of(caller, moved.name)
        # Nobody asks before the change is handed over, so nothing is known of the time until then.
        waits_s.append(max(changed_s, followed_s) - started_s)
    caller.close()
    return Measurement(
        path=rising.stage.path,
        workload=churn.name,
        rounds=changes,
        ops_per_s=1 / median(waits_s),
        ops_per_s_by_round=[1 / wait_s for wait_s in waits_s],
        errors=caller.errors,
        errors_by_kind={"not-answered": caller.errors} if caller.errors else {},
        longest_stall_ms=caller.longest_gap_s * 1000,
        live_after_ms=median(waits_s) * 1000,
    )


def _first_of(caller: Caller, name: str) -> float:
    """When `name` answered for the first time."""
    for _ in _patiently():
        if caller.ask() == name:
            break
    return time.perf_counter()


def _last_of(caller: Caller, name: str) -> float:
    """When `name` answered for the last time; long ago if it did not any more."""
    last_s, without = 0.0, 0
    for _ in _patiently():
        if caller.ask() == name:
            last_s, without = time.perf_counter(), 0
        elif (without := without + 1) == _QUIET:
            break
    return last_s


def _patiently() -> Iterator[None]:
    deadline_s = time.perf_counter() + _FOLLOWS_WITHIN_S
    while time.perf_counter() < deadline_s:
        yield
    raise CommandFailed(f"a changed endpoint had no effect within {_FOLLOWS_WITHIN_S:g} s")
