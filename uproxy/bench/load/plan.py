"""What one run of the generator is told, and what it reports: JSON on stdin and stdout.

Owns names, units and the limits of each. How latency is counted:

* Open loop (`rate_per_s`): operations are due at fixed times, evenly spaced over all threads. Each
  is sent when it is due if a connection is free, otherwise as soon as one is; none is skipped.
  `corrected` counts from the time it was due, `uncorrected` from when it was sent.
* Closed loop (no rate): every connection has always one operation under way. There is no time at
  which one was due, so `corrected` is the same as `uncorrected`.
* Warm-up: what was due in it is not in the histograms, what completed in it is not in `operations`.
* A timed-out operation, and one that is still waiting at the end, is in `corrected` with the time
  it has waited: leaving it out would make a stuck path look fast.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

Workload = Literal["rr", "crr", "stream-up", "stream-down", "stream-both", "udp-rr", "connect", "idle"]
Generator = Literal["auto", "native", "python"]

SHORTEST_MESSAGE = 32
"""Bytes: a message holds its header, see wire."""
LONGEST_MESSAGE = 1 << 20
LONGEST_DATAGRAM = 65_507
"""Bytes; what IPv4 lets a UDP datagram carry."""

_UNPACED = ("stream-up", "stream-down", "stream-both", "idle")
_Bytes = Annotated[int, Meta(ge=SHORTEST_MESSAGE, le=LONGEST_MESSAGE)]
_Positive = Annotated[int, Meta(ge=1)]
_Seconds = Annotated[float, Meta(gt=0, le=86_400)]


class LoadPlan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One measurement.

    Raises ValueError (msgspec: ValidationError) when fields contradict each other.
    """

    workload: Workload
    """`rr`: exchanges on open connections. `crr`: connect, one exchange, close. `connect`: from
    connect() to the first byte of the server's answer to a greeting that follows the handshake.
    `stream-*`: bytes as fast as they go. `udp-rr`: exchanges of datagrams. `idle`: connections
    that are opened, held without traffic, and asked at the end whether they are alive."""
    host: Annotated[str, Meta(min_length=1)]
    """An IP address, or a name, of which the first address that answers is used."""
    port: Annotated[int, Meta(ge=1, le=65_535)]
    connections: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    """Open at once; for `crr` and `connect` the most that are under way at once."""
    message_bytes: _Bytes = 64
    """Of a request, header included; for `stream-*` of each write. `http` ignores it."""
    reply_bytes: _Bytes | None = None
    """Of a reply; as `message_bytes` when left out. `connect` and `idle` use the shortest."""
    rate_per_s: Annotated[float, Meta(gt=0, le=10_000_000)] | None = None
    """Operations a second, all connections together; None is the closed loop."""
    duration_s: _Seconds = 5.0
    """Measured time; warm-up comes before it."""
    warmup_s: Annotated[float, Meta(ge=0, le=86_400)] = 0.5
    threads: Annotated[int, Meta(ge=1, le=256)] = 1
    """Of the native generator; the Python one always has one."""
    timeout_s: _Seconds = 5.0
    """An operation that waits longer counts as a `timeout`, and its connection is opened anew."""
    generator: Generator = "auto"
    protocol: Literal["bench", "http"] = "bench"
    """`http`: `GET /`, answered with a Content-Length, for any web server; `rr` and `crr` only."""

    def __post_init__(self) -> None:
        if self.protocol == "http" and self.workload not in ("rr", "crr"):
            raise ValueError(f"http does not speak {self.workload}: only rr and crr")
        if self.rate_per_s and self.workload in _UNPACED:
            raise ValueError(f"{self.workload} has no rate")
        if self.workload == "udp-rr" and max(self.message_bytes, self.answer_bytes) > LONGEST_DATAGRAM:
            raise ValueError(f"udp-rr: a datagram holds at most {LONGEST_DATAGRAM} bytes")

    @property
    def answer_bytes(self) -> int:
        """Length of a reply."""
        return self.reply_bytes or self.message_bytes


class LoadOutcome(Struct, frozen=True, kw_only=True):
    """What the generator saw."""

    workload: Workload
    generator: Literal["native", "python"]
    """Which one ran."""
    operations: int
    """Completed in the measured time; for `stream-*` bytes received, for `idle` connections held."""
    elapsed_s: float
    """Measured time. For `stream-*` until the last byte sent was received."""
    bytes_up: int
    """To the server."""
    bytes_down: int
    errors_by_kind: dict[str, int]
    """`refused`, `reset`, `timeout`, `eof`, `mismatch` (not the bytes asked for), `status` (HTTP, not 200),
    `unreachable`, `no-local-port` (all rest in TIME_WAIT), `no-descriptor`, `other`."""
    corrected: str | None
    """HdrHistogram V2, base64, ns (see uproxy.bench.latency); None for `stream-*` and `idle`."""
    uncorrected: str | None
    generator_user_s: float
    """CPU of the generator in the measured time, all threads."""
    generator_system_s: float
    """Same, in the kernel; on loopback and veth pairs that is also where packets are delivered."""
    cpu_share: float
    """Of the busiest thread: CPU over elapsed time. Near 1.0 the generator was the bottleneck."""
    behind_schedule: float
    """Fraction of operations sent over 1 ms after they were due although a connection was free."""
    by_endpoint: dict[str, int]
    """Server's name to operations; for `stream-*` and `idle` to connections. Empty for `http`."""
    longest_gap_ms: float
    """The longest time in which no operation completed; 0 for `stream-*` and `idle`."""
    stuck: int
    """Operations that were due but had no answer up to a second after the end (not in `operations`)."""
    held: int
    """`idle`: connections that answered before and after; 0 for other workloads."""
