"""What a run of `uproxy bench` found: the shapes of results.json.

Owns names and units, which other people's scripts read. Pure data: nothing here measures,
computes or draws. The runner fills these, the report and `--compare` read them.
"""

import msgspec

DIRECT = "direct"
"""The path that has nothing on it."""
FORMAT = 1
"""Goes up when a field changes its meaning or goes away."""


class Interval(msgspec.Struct, frozen=True):
    """A figure with its 95 % confidence interval, over rounds."""

    median: float
    low: float
    high: float


class ProcessCost(msgspec.Struct, frozen=True):
    """What one program spent on a measurement, all its threads, median over rounds."""

    name: str
    """`client`, `server`, or the proxy's program: `uproxy`, `haproxy`, `nginx`."""
    user_us_per_op: float
    system_us_per_op: float
    cpu_s_per_gb: float | None = None
    """STREAM only."""


class Spread(msgspec.Struct, frozen=True):
    """How evenly connections (CRR) or requests fell on the endpoints."""

    by_endpoint: dict[str, int]
    max_over_mean: float
    chi_squared_p: float
    """Probability of a spread as uneven as this, or more, under an even choice at random."""


class Percentiles(msgspec.Struct, frozen=True):
    """Latency in microseconds, over all rounds."""

    p50_us: float
    p90_us: float
    p99_us: float
    p99_9_us: float
    p99_99_us: float
    max_us: float


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One workload over one path, all rounds of it."""

    path: str
    """`direct`, `uproxy-bind`, `haproxy`, or the NAME of `--target NAME=HOST:PORT`."""
    workload: str
    """`rr-64x64B`, `crr-32`, `stream-down-8`: kind, connections, message size."""
    rounds: int
    ops_per_s: float
    """Median over rounds. An operation is an exchange (RR, UDP), a connection with one exchange
    (CRR), a connection (connect); for STREAM a byte, for idle a connection held."""
    ops_per_s_by_round: list[float]
    p50_us: float | None = None
    """Counted from the intended send time; None where nothing has a latency (STREAM, idle)."""
    p99_us: float | None = None
    corrected: Percentiles | None = None
    """From the intended send time: waiting because the path was slow counts."""
    uncorrected: Percentiles | None = None
    """From the actual send time, as most tools count."""
    histogram: str | None = None
    """`corrected`, whole: HdrHistogram V2, compressed, base64; values in nanoseconds."""
    ops_ratio_to_direct: Interval | None = None
    """Of the same rounds; None for `direct` itself and where it was not measured."""
    p50_us_over_direct: Interval | None = None
    """Latency that the path adds, microseconds."""
    rate_per_s: float | None = None
    """The rate asked for (open loop); None at saturation (closed loop)."""
    cpu_us_per_op: float | None = None
    """All programs together, user and system; None for STREAM and idle."""
    cpu_s_per_gb: float | None = None
    """The proxy's programs alone; STREAM only, None on paths without a proxy."""
    costs: list[ProcessCost] = []
    errors: int = 0
    errors_by_kind: dict[str, int] = {}
    rss_bytes_per_connection: float | None = None
    """Growth of the proxy's resident memory; idle only."""
    kernel_bytes_per_connection: float | None = None
    """Growth of the kernel's memory, sockets and buffers of all three hosts; idle only."""
    spread: Spread | None = None
    longest_stall_ms: float | None = None
    """The longest time without any completed operation; churn and failover only."""
    live_after_ms: float | None = None
    """From the change to the first, or last, connection it should affect, p50; churn only."""
    warnings: list[str] = []
    """Why not to trust this measurement: errors, a saturated generator, a noisy machine."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where it ran: what a reader needs to compare figures at all."""

    kernel: str
    cpu: str
    cores: int
    governor: str
    memory_bytes: int
    versions: dict[str, str]
    """`uproxy`, `python`, and each peer's; `commit` in a checkout."""
    sysctls: dict[str, str]
    generator: str
    """`native` or `python`."""


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run."""

    format: int = FORMAT
    started: str
    """ISO 8601, UTC."""
    command: list[str]
    seconds_per_measurement: float
    complete: bool
    """False after Ctrl-C: rounds can be missing."""
    machine: Machine
    measurements: list[Measurement]
    left_out: dict[str, str] = {}
    """Paths that this machine cannot run, and why."""
    warnings: list[str] = []
    """What concerns the whole run."""
