"""What is asked of a path: the workloads, their names, and the set that runs by default.

Owns the grammar of `--workload`. A name says everything: kind, connections, message size.
Refuses to know how a workload is run.

    rr-64x64B           request/response on 64 open connections, 64 bytes each way
    crr-32              connect, one exchange, close; 32 at a time
    connect-8           connect and the first byte; 8 at a time
    udp-rr-16x64B       request/response by datagrams from 16 sockets
    stream-down-1       one stream from the pod; also stream-up-N, stream-both-N
    paced-rr-64x64B     as rr, all paths at one rate: half of what the slowest of them can do
    idle-1000           memory of 1,000 connections on which nothing happens
    spread-32           connections over three pods, 32 at a time: who gets how many
    churn-1000          an endpoint comes and goes among 1,000 Services
    failover-kill       one of three pods is killed, or (failover-blackhole) drops all packets
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from uproxy.bench.load.plan import LONGEST_DATAGRAM, LONGEST_MESSAGE, SHORTEST_MESSAGE
from uproxy.bench.load.plan import Workload as LoadKind
from uproxy.model.faults import BadInput, Fault

PACED = "paced-"
"""Before the name of the same workload at saturation."""
STREAM_BYTES = 65536
SMALL_BYTES = 64
MOST_CONNECTIONS = 20_000
MOST_SERVICES = 50_000

_SIZES = {"B": 1, "KiB": 1024, "MiB": 1024 * 1024}
_LOAD = re.compile(
    r"(paced-)?(rr|crr|connect|udp-rr|stream-up|stream-down|stream-both)-(\d+)(?:x(\d+)(B|KiB|MiB))?"
)
_COUNTED = re.compile(r"(idle|spread|churn)-(\d+)")
_SIZED = ("rr", "udp-rr")
_KINDS = ("rr", "crr", "connect", "udp-rr", "stream", "paced", "idle", "spread", "churn", "failover")


@dataclass(frozen=True, slots=True)
class Load:
    """What the generator does for some time. An operation is an exchange, a connection or a byte."""

    name: str
    kind: LoadKind
    """The generator's word."""
    connections: int
    message_bytes: int
    paced: bool = False
    """At half of what the slowest path can do, instead of as fast as each path goes."""

    @property
    def is_stream(self) -> bool:
        """Whether operations are bytes."""
        return self.kind.startswith("stream")

    @property
    def is_udp(self) -> bool:
        """Whether a path without UDP must leave it out."""
        return self.kind == "udp-rr"


@dataclass(frozen=True, slots=True)
class Idle:
    """Connections that are opened and held: what does one cost?"""

    name: str
    connections: int


@dataclass(frozen=True, slots=True)
class Spread:
    """Connections, one after the other, to a Service with several endpoints."""

    name: str
    connections: int


@dataclass(frozen=True, slots=True)
class Churn:
    """An endpoint of one Service is added and removed while `services` are programmed."""

    name: str
    services: int


@dataclass(frozen=True, slots=True)
class Failover:
    """One of several pods stops answering under load, and its endpoint stays listed."""

    name: str
    fault: str
    """kill: its connections are reset and new ones refused; blackhole: its packets are dropped."""


Workload = Load | Idle | Spread | Churn | Failover

_DEFAULT = (
    "rr-64x64B",
    "rr-64x1KiB",
    "rr-1x64B",
    "crr-32",
    "connect-8",
    "udp-rr-16x64B",
    "stream-down-1",
    "stream-up-8",
    "stream-both-8",
    "paced-rr-64x64B",
    "paced-crr-32",
    "idle-1000",
    "spread-32",
    "churn-1",
    "churn-1000",
    "churn-10000",
    "failover-kill",
    "failover-blackhole",
)


def default_workloads() -> tuple[Workload, ...]:
    """What runs without `--workload`, in the order of the report."""
    return tuple(parse_workload(name) for name in _DEFAULT)


def parse_workloads(text: str) -> tuple[Workload, ...]:
    """Names separated by commas; a kind alone is all of that kind in the default set.

    Raises BadInput with every mistake.
    """
    faults: list[Fault] = []
    chosen: dict[str, Workload] = {}
    for name in filter(None, (part.strip() for part in text.split(","))):
        try:
            chosen.update((workload.name, workload) for workload in _named(name))
        except ValueError as error:
            faults.append(Fault("--workload", 0, "", None, "", str(error)))
    if not chosen and not faults:
        faults.append(Fault("--workload", 0, "", None, "", "names no workload"))
    if faults:
        raise BadInput(tuple(faults))
    return tuple(chosen.values())


def _named(name: str) -> Sequence[Workload]:
    if name not in _KINDS:
        return [parse_workload(name)]
    return [workload for workload in default_workloads() if workload.name.startswith(f"{name}-")]


def parse_workload(name: str) -> Workload:
    """One workload by its whole name.

    Raises ValueError, with words for a person.
    """
    if match := _LOAD.fullmatch(name):
        paced, word, count, size, unit = match.groups()
        kind = cast(LoadKind, word)
        message_bytes = _message_bytes(name, kind, int(size) * _SIZES[unit] if size else None)
        if paced and kind.startswith("stream"):
            raise ValueError(f"{name}: a stream has no operations to pace")
        connections = _within(name, "number of connections", int(count), MOST_CONNECTIONS)
        return Load(name, kind, connections, message_bytes, paced is not None)
    if match := _COUNTED.fullmatch(name):
        return _counted(name, match[1], int(match[2]))
    if name in ("failover-kill", "failover-blackhole"):
        return Failover(name, name.partition("-")[2])
    raise ValueError(
        f"no workload is called {name!r}; kinds are {', '.join(_KINDS)}, and rr-64x64B is a name"
    )


def _message_bytes(name: str, kind: str, given: int | None) -> int:
    sized = kind in _SIZED
    if sized != (given is not None):
        example = f"{kind}-16x64B" if sized else f"{kind}-8"
        raise ValueError(f"{name}: {'a' if sized else 'no'} message size belongs here, as in {example}")
    if given is None:
        return STREAM_BYTES if kind.startswith("stream") else SMALL_BYTES
    longest = LONGEST_DATAGRAM if kind == "udp-rr" else LONGEST_MESSAGE
    return _within(name, "message size in bytes", given, longest, least=SHORTEST_MESSAGE)


def _counted(name: str, kind: str, count: int) -> Workload:
    if kind == "churn":
        return Churn(name, _within(name, "number of Services", count, MOST_SERVICES))
    connections = _within(name, "number of connections", count, MOST_CONNECTIONS)
    return Idle(name, connections) if kind == "idle" else Spread(name, connections)


def _within(name: str, what: str, value: int, most: int, *, least: int = 1) -> int:
    if not least <= value <= most:
        raise ValueError(f"{name}: the {what} must be {least:,} to {most:,}")
    return value
