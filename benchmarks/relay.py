"""uproxy's relay beside HAProxy, nginx stream, the kernel's DNAT and no proxy at all.

    python -m benchmarks.relay [--rounds N] [--seconds S] [--only PATH,...] [--json FILE]

Every path has a client, a node and a pod of its own, each a network namespace; as root. All
paths stand ready at once, and are measured one at a time in short turns: for each workload all
paths in a row, in an order that moves on by one each round, so that a slow second of the
machine hits all paths alike. Figures are medians over the rounds.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from benchmarks import load, machine
from benchmarks.contenders import Address, Contender, contenders
from benchmarks.load import Workload
from benchmarks.measure import TimedOut, accepts, cpu_s, wait_until
from benchmarks.placement import place
from benchmarks.relay_report import Sample, report
from uproxy.errors import CommandFailed
from uproxy.kit.lab import Host, Lab, reason_unavailable

WORKLOADS = (
    Workload("rr, 64 connections, 64 B", "rr", 64, 64),
    Workload("rr, 64 connections, 1 KiB", "rr", 64, 1024),
    Workload("rr, 1 connection, 64 B", "rr", 1, 64),
    Workload("crr, 32 connections, 64 B", "crr", 32, 64),
    Workload("bulk, 1 stream", "bulk", 1, 65536),
    Workload("bulk, 8 streams", "bulk", 8, 65536),
)
WARM_UP = Workload("warm-up", "rr", 8, 64)
WARM_UP_S = 0.2

Collected = dict[tuple[str, str], list[Sample]]


@dataclass(frozen=True, slots=True)
class Stage:
    """A path that is up in a lab of its own."""

    name: str
    client: Host
    address: Address
    proxy_pids: list[int]
    server_pid: int


def main() -> int:
    """Measure, print the report, and say in the status whether every path worked."""
    arguments = _arguments()
    reason = reason_unavailable()
    if reason:
        print(f"relay: {reason}", file=sys.stderr)
        return 1
    chosen = _choose(arguments.only)
    try:
        with ExitStack() as stack:
            load.build()
            stages = [stack.enter_context(_stage(contender)) for contender in chosen]
            samples = _measure_all(stages, arguments.rounds, arguments.seconds)
    except (CommandFailed, TimedOut) as error:
        print(f"relay: {error}", file=sys.stderr)
        return 1
    print(report(WORKLOADS, [contender.name for contender in chosen], samples))
    if arguments.json:
        arguments.json.write_text(json.dumps(_record(samples), indent=1) + "\n")
    return 1 if any(sample.failed for row in samples.values() for sample in row) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument(
        "--seconds", type=float, default=0.5, help="for each workload and round (default 0.5)"
    )
    parser.add_argument("--only", help="comma-separated paths, such as direct,haproxy,uproxy-bind")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample here")
    return parser.parse_args()


def _choose(only: str | None) -> list[Contender]:
    known = contenders()
    names = only.split(",") if only else [contender.name for contender in known]
    unknown = set(names) - {contender.name for contender in known}
    if unknown:
        raise SystemExit(f"relay: no such path: {', '.join(sorted(unknown))}")
    chosen = [contender for contender in known if contender.name in names]
    for contender in chosen:
        if contender.missing:
            print(f"left out: {contender.name} (apt-get install {contender.missing})")
    return [contender for contender in chosen if not contender.missing]


@contextmanager
def _stage(contender: Contender) -> Iterator[Stage]:
    """Yield a path that is up and warm."""
    with Lab(pods=1) as lab:
        _prepare(lab)
        with load.server(lab.pods[0]) as server_pid, contender.up(lab) as address:
            _warm_up(contender.name, lab.client, address)
            # Only now: a program that is still starting is not yet in its namespace.
            proxy_pids = lab.node.pids()
            yield Stage(contender.name, lab.client, address, proxy_pids, server_pid)


def _prepare(lab: Lab) -> None:
    for host in lab.hosts:
        # BBR, where it is the machine's default, paces each stream by its own estimate: bulk
        # would measure that. Reno is in every kernel, and only the receiver holds it back here.
        host.sysctl("net.ipv4.tcp_congestion_control", "reno")
        # Ports enough for thousands of closes; below them are those that proxies listen on.
        host.sysctl("net.ipv4.ip_local_port_range", "12000 65535")
        host.sysctl("net.ipv4.tcp_tw_reuse", 1)
    lab.node.sysctl("net.netfilter.nf_conntrack_tcp_timeout_time_wait", 1)


def _warm_up(name: str, client: Host, address: Address) -> None:
    for port in (address.port, address.port + 1):
        taken = partial(accepts, client, address.ip, port)
        wait_until(taken, f"{name}: a connection to {address.ip}:{port}")
    load.run(client, address.ip, address.port, WARM_UP, WARM_UP_S)


def _measure_all(stages: Sequence[Stage], rounds: int, seconds: float) -> Collected:
    samples: Collected = {}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        first = number % len(stages)
        for workload in WORKLOADS:
            for stage in (*stages[first:], *stages[:first]):
                sample = _measure(stage, workload, seconds)
                samples.setdefault((stage.name, workload.name), []).append(sample)
    return samples


def _measure(stage: Stage, workload: Workload, seconds: float) -> Sample:
    place(stage.proxy_pids, stage.server_pid, apart=not workload.is_bulk)
    proxy_before, server_before = cpu_s(stage.proxy_pids), cpu_s([stage.server_pid])
    address = stage.address
    result = load.run(stage.client, address.ip, address.port, workload, seconds)
    return Sample(
        result,
        cpu_s(stage.proxy_pids) - proxy_before,
        cpu_s([stage.server_pid]) - server_before,
    )


def _record(samples: Collected) -> dict[str, object]:
    rows = [
        {"path": path, "workload": workload, "rounds": [asdict(sample) for sample in row]}
        for (path, workload), row in samples.items()
    ]
    return {"machine": machine.describe(), "samples": rows}


if __name__ == "__main__":
    sys.exit(main())
