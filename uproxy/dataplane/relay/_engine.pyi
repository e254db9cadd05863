"""The native relay's C extension; `engine/module.c` has the other side of these signatures."""

from typing import NamedTuple

REASONS: tuple[str, ...]
"""The close reasons that the engine knows, by its numbers."""

class Report(NamedTuple):
    """A failed dial, or the end of a connection."""

    failed_dial: bool
    client_fd: int
    """Failed dial only: the caller's again."""
    code: int
    """Failed dial: an errno; else an index into REASONS."""
    port: int
    backend: int
    client: str
    bytes_to_backend: int
    bytes_to_client: int
    lasted_s: float
    """Since the connection began; of a failed dial, since it was dialled."""

class Engine:
    """Threads that relay. All methods are for one thread, and raise RuntimeError after `close`."""

    report_fd: int
    """An eventfd, readable while `reports` has something."""

    def __init__(
        self,
        *,
        workers: int,
        connect_ms: int,
        idle_ms: int,
        half_closed_ms: int,
        mark: int,
        pipe_descriptors_max: int,
        report_ends: bool,
        connect_bounds_s: tuple[float, ...],
        local_ports: tuple[int, int],
        tells_ends: bool,
        tells_failures: bool,
        client_ports: tuple[int, int],
    ) -> None: ...
    def add_port(self) -> int:
        """A slot for a Service port's counts."""
    def set_port(self, slot: int, report_ends: bool, age_ms: int, /) -> None:
        """What is asked for at a Service port. Whether `reports` tells of its ends, even if it does not
        of others; such a report may lack the client. How old connections may get; 0 for any age."""
    def add_backend(self, ip: str, port: int, /) -> int:
        """A slot for an endpoint's address and counts. Raises ValueError."""
    def drop_port(self, slot: int, /) -> bool:
        """Give a slot up; False when a connection uses it, or its counts are not collected."""
    def drop_backend(self, slot: int, /) -> bool:
        """Give a slot up; False when a connection uses it, or its counts are not collected."""
    def begin(
        self,
        client: int,
        port: int,
        backend: int,
        address: str,
        begun_ns: int,
        header: bytes,
        as_client: bool,
        bound_ms: int,
        /,
    ) -> int:
        """Dial, from the client's own address if `as_client`, and relay: 0, and `client` is the engine's;
        or an errno. The dial may take `bound_ms`, which is more than `connect_ms`; with 0 it takes that.
        The endpoint gets `header` ahead of what the client says."""
    def reset(self, reason: int, backend: int, /) -> None:
        """Reset every connection to a backend, or with -1 every connection; waits for that."""
    def ask_every(self, seconds: int, /) -> None:
        """How often the peers of half-closed connections have to show that they are there."""
    def joined(self, backend: int, /) -> int:
        """How many dials of a backend have succeeded."""
    def open(self, backends: list[int], /) -> list[int]:
        """How many connections each of these backends has now, dials under way included; 0 for -1."""
    def live(self) -> int:
        """Connections."""
    def descriptors(self) -> int:
        """Descriptors in use: two a connection, and pipes."""
    def collect(
        self,
    ) -> tuple[
        list[tuple[int, int, int, tuple[int, ...], tuple[int, ...], float]], list[tuple[int, int, int]]
    ]:
        """What changed since the last time: for each port slot bytes to the backend, bytes to the
        client, closes by reason, dials by duration, seconds of all of them; for each backend slot
        dials that succeeded, and how many connections are open in all."""
    def reports(self) -> list[Report]:
        """What was reported since the last time."""
    def close(self) -> None:
        """Reset everything and end the threads. Twice is fine."""

def accept(listener: int, /) -> tuple[int, str] | None:
    """Accept: a non-blocking descriptor and the client's address; None when nobody waits."""

def destination(client: int, family: int, /) -> bytes | None:
    """SO_ORIGINAL_DST: port and address in network order; None when the kernel has no record."""

def refuse(client: int, /) -> None:
    """Close, so that the peer sees a reset."""
