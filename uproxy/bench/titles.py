"""What a workload is, in words, for every form of the report.

Names that are not of workloads.py's grammar (a results.json from another version may hold some)
stand for themselves. Pure.
"""

from typing import assert_never

from uproxy.bench.results import Measurement
from uproxy.bench.workloads import Churn, Failover, Idle, Load, Spread, Workload, parse_workload

_STREAMS = {
    "stream-down": "Bulk from the pod",
    "stream-up": "Bulk to the pod",
    "stream-both": "Bulk both ways",
}


def understood(name: str) -> Workload | None:
    """Read a workload's name; None when it is none of ours."""
    try:
        return parse_workload(name)
    except ValueError:
        return None


def title(name: str) -> str:
    """Return what a workload does: `64 B requests on 64 open connections`."""
    match understood(name):
        case None:
            return name
        case Load() as load:
            return _load_title(load) + (", at half the slowest path's rate" if load.paced else "")
        case Idle(connections=count):
            return f"{count:,} idle connections"
        case Spread(connections=count):
            return f"Who gets a new connection, {count} at a time"
        case Churn(services=count):
            return f"An endpoint comes and goes, among {_count(count, 'Service')}"
        case Failover(fault=fault):
            return "A pod is killed" if fault == "kill" else "A pod's packets are dropped"
        case unknown:
            assert_never(unknown)


def _load_title(load: Load) -> str:
    size = load.name.rpartition("x")[2].replace("KiB", " KiB").replace("MiB", " MiB")
    size = size if size.endswith("iB") else f"{load.message_bytes} B"
    match load.kind:
        case "rr":
            return f"{size} requests on {_count(load.connections, 'open connection')}"
        case "udp-rr":
            return f"{size} UDP requests from {_count(load.connections, 'socket')}"
        case "crr":
            return f"Connect, one request, close: {load.connections} at a time"
        case "connect":
            return f"Connect and the first byte: {load.connections} at a time"
        case _:
            return f"{_STREAMS[load.kind]}, {_count(load.connections, 'stream')}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def operation(name: str) -> str:
    """Return the word for one operation of a workload."""
    match understood(name):
        case Load(kind="crr" | "connect") | Spread():
            return "connection"
        case Load(kind="rr" | "udp-rr"):
            return "request"
        case _:
            return "operation"


def is_bulk(name: str) -> bool:
    """Whether an operation is a byte."""
    return name.startswith("stream-")


def is_churn(measurement: Measurement) -> bool:
    """Whether endpoints come and go, and an operation is a change."""
    return isinstance(understood(measurement.workload), Churn)


def is_spoilt(measurement: Measurement) -> bool:
    """Whether errors make its figures unfit to be compared.

    Where pods die or move, errors are the finding, not a fault of the measurement.
    """
    made_to_fail = isinstance(understood(measurement.workload), Churn | Failover)
    return measurement.errors > 0 and not made_to_fail
