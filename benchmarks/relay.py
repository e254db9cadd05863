"""uproxy's relay beside HAProxy, nginx stream, the kernel's DNAT and no proxy at all.

    python -m benchmarks.relay [--rounds N] [--seconds S] [--only PATH,...] [--json FILE]

One client, one node, one pod, each a network namespace; as root. Every round measures every
path once, one at a time, in an order that moves on by one each round, so that a slow minute of
the machine hits all paths alike. Figures are medians over the rounds.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

from benchmarks import load, machine
from benchmarks.contenders import Address, Contender, contenders
from benchmarks.load import Workload
from benchmarks.measure import TimedOut, accepts, cpu_s, wait_until
from benchmarks.placement import place
from benchmarks.relay_report import Sample, report
from uproxy.errors import CommandFailed
from uproxy.testing.lab import Lab, reason_unavailable

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


def main() -> int:
    """Measure, print the report, and say in the status whether every path worked."""
    arguments = _arguments()
    reason = reason_unavailable()
    if reason:
        print(f"relay: {reason}", file=sys.stderr)
        return 1
    chosen = _choose(arguments.only)
    try:
        with _prepared_lab() as (lab, server_pid):
            samples = _measure_all(lab, server_pid, chosen, arguments.rounds, arguments.seconds)
    except (CommandFailed, TimedOut) as error:
        print(f"relay: {error}", file=sys.stderr)
        return 1
    print(report(WORKLOADS, [contender.name for contender in chosen], samples))
    if arguments.json:
        arguments.json.write_text(json.dumps(_record(samples), indent=1) + "\n")
    return 1 if any(sample.failed for row in samples.values() for sample in row) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each workload and round (default 1)")
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
def _prepared_lab() -> Iterator[tuple[Lab, int]]:
    """Yield a lab whose ports and connection tracking are not used up by thousands of closes."""
    load.build()
    with Lab(pods=1) as lab:
        for host in (lab.client, lab.node):
            # Below it are the ports that proxies listen on.
            host.sysctl("net.ipv4.ip_local_port_range", "12000 65535")
            host.sysctl("net.ipv4.tcp_tw_reuse", 1)
        lab.node.sysctl("net.netfilter.nf_conntrack_tcp_timeout_time_wait", 1)
        with load.server(lab.pods[0]) as server_pid:
            yield lab, server_pid


def _measure_all(
    lab: Lab, server_pid: int, chosen: Sequence[Contender], rounds: int, seconds: float
) -> Collected:
    samples: Collected = {}
    for number in range(rounds):
        first = number % len(chosen)
        for contender in (*chosen[first:], *chosen[:first]):
            print(f"round {number + 1} of {rounds}: {contender.name}", file=sys.stderr)
            with contender.up(lab) as address:
                proxy_pids = lab.node.pids()
                place(proxy_pids, server_pid)
                _warm_up(lab, address)
                for workload in WORKLOADS:
                    sample = _sample(lab, address, workload, seconds, (proxy_pids, [server_pid]))
                    samples.setdefault((contender.name, workload.name), []).append(sample)
    return samples


def _sample(
    lab: Lab,
    address: Address,
    workload: Workload,
    seconds: float,
    proxy_and_server: tuple[list[int], list[int]],
) -> Sample:
    before = [cpu_s(pids) for pids in proxy_and_server]
    result = load.run(lab.client, address.ip, address.port, workload, seconds)
    after = [cpu_s(pids) for pids in proxy_and_server]
    return Sample(result, after[0] - before[0], after[1] - before[1])


def _warm_up(lab: Lab, address: Address) -> None:
    for port in (address.port, address.port + 1):
        taken = partial(accepts, lab.client, address.ip, port)
        wait_until(taken, f"a connection to {address.ip}:{port}")
    load.run(lab.client, address.ip, address.port, WARM_UP, WARM_UP_S)


def _record(samples: Collected) -> dict[str, object]:
    rows = [
        {"path": path, "workload": workload, "rounds": [asdict(sample) for sample in row]}
        for (path, workload), row in samples.items()
    ]
    return {"machine": machine.describe(), "samples": rows}


if __name__ == "__main__":
    sys.exit(main())
