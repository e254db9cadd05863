"""The C engine without the relay around it: what its own tests share."""

import errno
import resource
import select
import socket
import time
from importlib import import_module
from pathlib import Path

OPTIONS = {
    "workers": 2,
    "connect_ms": 1000,
    "idle_ms": 3_600_000,
    "half_closed_ms": 3_600_000,
    "mark": 0,
    "pipe_descriptors_max": 1000,
    "report_ends": True,
    "connect_bounds_s": (0.001, 0.1),
    "local_ports": (32768, 60999),
    "tells_ends": True,
    "tells_failures": True,
    "client_ports": (4096, 29999),
}
PATIENCE_S = 20.0


def new_engine(**changes):
    """An engine with OPTIONS, some of them changed."""
    return import_module("uproxy.dataplane.relay._engine").Engine(**{**OPTIONS, **changes})


def wait(condition, what: str = ""):
    """Wait for a condition, and return what it returned; fail when it does not come."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not seen in {PATIENCE_S:g} s: {what or condition}"
        time.sleep(0.002)
    return found


def descriptors() -> int:
    """How many this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def threads() -> int:
    """How many threads of engines this process has."""
    names = (path.read_text() for path in Path("/proc/self/task").glob("*/comm"))
    return sum(name.startswith("uproxy-relay") for name in names)


def many_descriptors() -> int:
    """Raise this process's limit to what it may have, and return that."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class Stage:
    """An engine, one Service port and one backend in it, and peers for both sides."""

    def __init__(self, **changes) -> None:
        self.module = import_module("uproxy.dataplane.relay._engine")
        self.engine = new_engine(**changes)
        self._sockets: list[socket.socket] = []
        self.front = self.own(socket.create_server(("127.0.0.1", 0), backlog=1000))
        self.back = self.own(socket.create_server(("127.0.0.1", 0), backlog=1000))
        self.port = self.engine.add_port()
        self.backend = self.engine.add_backend(*self.back.getsockname())

    def own(self, sock: socket.socket) -> socket.socket:
        """Close it when the test is over."""
        self._sockets.append(sock)
        return sock

    def client(self) -> tuple[socket.socket, int]:
        """A client that was accepted: its own socket, and the descriptor at our side."""
        client = self.own(socket.create_connection(self.front.getsockname()))
        client.settimeout(PATIENCE_S)
        descriptor, _ = self.module.accept(self.front.fileno())
        return client, descriptor

    def begin(
        self,
        client: int,
        backend: int | None = None,
        address: str = "198.51.100.1",
        header: bytes = b"",
        bound_ms: int = 0,
    ) -> int:
        """Have the engine dial."""
        chosen = self.backend if backend is None else backend
        return self.engine.begin(client, self.port, chosen, address, 0, header, False, bound_ms)

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """A connection: the client's socket, and the backend's."""
        client, descriptor = self.client()
        assert self.begin(descriptor) == 0
        return client, self.server()

    def server(self) -> socket.socket:
        """The backend's end of the connection that was dialled next."""
        server = self.own(self.back.accept()[0])
        server.settimeout(PATIENCE_S)
        return server

    def black_hole(self) -> int:
        """A backend whose backlog is full, so that the kernel drops handshakes."""
        listener = self.own(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = self.own(socket.socket())
            filler.setblocking(False)
            assert filler.connect_ex(listener.getsockname()) == errno.EINPROGRESS
        return self.engine.add_backend(*listener.getsockname())

    def refusing(self) -> int:
        """A backend that refuses: bound, so that nobody else can have its port, and not listening."""
        place = self.own(socket.socket())
        place.bind(("127.0.0.1", 0))
        return self.engine.add_backend(*place.getsockname())

    def reports(self, count: int):
        """The next `count` of them."""
        found = []
        while len(found) < count:
            ready, _, _ = select.select([self.engine.report_fd], [], [], PATIENCE_S)
            assert ready, f"{len(found)} of {count} reports in {PATIENCE_S:g} s"
            found += self.engine.reports()
        assert len(found) == count
        return found

    def close(self) -> None:
        """End everything."""
        self.engine.close()
        for sock in self._sockets:
            sock.close()


def was_reset(sock: socket.socket) -> bool:
    """Whether the next thing that a peer hears is a reset."""
    try:
        sock.recv(1)
    except ConnectionResetError:
        return True
    return False
