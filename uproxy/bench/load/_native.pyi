"""The compiled generator and server; native/client.h and native/server.h say how they are laid out."""

from typing import NoReturn, TypedDict

class Outcome(TypedDict):
    """Figures as in plan.LoadOutcome. A histogram is its counts, and the longest in ns."""

    operations: int
    elapsed_s: float
    bytes_up: int
    bytes_down: int
    sent: int
    behind: int
    stuck: int
    held: int
    user_s: float
    system_s: float
    cpu_share: float
    longest_gap_ms: float
    errors_by_kind: dict[str, int]
    by_endpoint: dict[str, int]
    corrected: tuple[bytes, int]
    uncorrected: tuple[bytes, int]

def run(
    *,
    workload: str,
    http: bool,
    ip: str,
    port: int,
    scope_id: int,
    connections: int,
    threads: int,
    message_bytes: int,
    reply_bytes: int,
    rate_per_s: float,
    warmup_s: float,
    duration_s: float,
    timeout_s: float,
) -> Outcome:
    """Carry out a plan, without the GIL; `rate_per_s` 0 is the closed loop. Raises OSError."""

def serve(
    *,
    listener: int,
    datagrams: int,
    name: str,
    constant_s: float,
    slow_share: float,
    slow_s: float,
    stall_period_s: float,
    stall_s: float,
    error_share: float,
) -> NoReturn:
    """Serve two non-blocking sockets for ever, without the GIL. Raises OSError when it cannot begin."""
