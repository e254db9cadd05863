"""uproxy as the node agent of a big cluster: how soon, how small, how fast it follows.

    python benchmarks/cluster.py [--services N] [--endpoints N] [--rounds N]

As root, in network namespaces, against the stand-in API server of the tests, which is a program of its
own. Prints a table, each figure beside what is asked of it, and writes it to results/cluster.txt.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

if __package__ in (None, ""):  # run as a file, not as a module
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.at_scale.first_packet import measure_first_packets
from benchmarks.at_scale.intake import intake_rate
from benchmarks.at_scale.running import Cluster, cluster
from uproxy.bench.fingerprint import fingerprint
from uproxy.dataplane.relay.native_relay import engine_or_reason
from uproxy.errors import CommandFailed
from uproxy.kit.lab import Host, reason_unavailable

RESULTS = Path(__file__).resolve().parent / "results" / "cluster.txt"
_CHANGES = 200
_FLIPS = 10
"""Between one endpoint and none."""
_QUIET_S = 3.0
_ROLLED, _ROLL_S = 1000, 10.0
_BURST = 20_000
_FEW = 10
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Round:
    """One start of the proxy, and everything that happened to it."""

    ready_s: float
    rss_bytes: int
    peak_rss_bytes: int
    idle_stall_s: float
    inside_s: list[float]
    """Of changes, from the line of the watch to the end of programming."""
    outside_s: list[float]
    """Of changes, from the API server's write to the first answer of the new endpoint."""
    generations: int
    """Of the kernel's ruleset, over changes between non-empty sets."""
    flip_generations: int
    """The same, over changes between one endpoint and none."""
    roll_stall_s: float
    roll_stall_cpu_s: float
    roll_inside_s: list[float]
    burst_per_s: float
    burst_per_cpu_s: float


def main() -> int:
    """Measure, print, and write."""
    arguments = _arguments()
    reason = reason_unavailable()
    if reason:
        print(f"cluster: {reason}", file=sys.stderr)
        return 1
    lines: list[str] = []
    try:
        for line in _lines(arguments):
            print(line, flush=True)
            lines.append(line)
    except CommandFailed as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    RESULTS.write_text("\n".join(lines) + "\n")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--endpoints", type=int, default=10, help="of each Service (default 10)")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def _lines(arguments: argparse.Namespace) -> Iterator[str]:
    services, endpoints = arguments.services, arguments.endpoints
    today = time.strftime("%Y-%m-%d")
    yield f"{today}, {services:,} Services x {endpoints} endpoints, {arguments.rounds} rounds"
    yield "  ".join(f"{key} {value}" for key, value in _machine().items())
    rounds = [_round(services, endpoints) for _ in range(arguments.rounds)]
    yield f"{'':<58}{'median':>10}{'worst':>10}   asked for"
    yield from _table(rounds)
    rates = [intake_rate(services, endpoints) for _ in range(arguments.rounds)]
    yield _row("EndpointSlice events taken in, alone, 1/s", rates, ">= 20,000", "{:,.0f}", worst=min)
    yield ""
    yield from measure_first_packets((_FEW, services), endpoints)


def _machine() -> dict[str, str]:
    found = fingerprint((), "python" if engine_or_reason() else "native", "none")
    return {"cpus": str(found.cores), "cpu": found.cpu, "kernel": found.kernel, **found.versions}


# ---- one round ----


def _round(services: int, endpoints: int) -> Round:
    with cluster(services, endpoints) as it:
        rss, peak = it.rss_bytes(), it.peak_rss_bytes()
        it.figures()
        time.sleep(_QUIET_S)
        idle = it.figures()
        outside_s, generations = _changes(it)
        inside_s = it.figures().changes_s
        flip_generations = _flips(it)
        it.figures()
        it.order("roll", _ROLLED, _ROLL_S)
        time.sleep(0.5)
        roll = it.figures()
        burst_per_s, burst_per_cpu_s = _burst(it)
        return Round(
            it.ready_s,
            rss,
            peak,
            idle.stall_s,
            inside_s,
            outside_s,
            generations,
            flip_generations,
            roll.stall_s,
            roll.stall_cpu_s,
            roll.changes_s,
            burst_per_s,
            burst_per_cpu_s,
        )


def _changes(it: Cluster) -> tuple[list[float], int]:
    """Lead the one Service to the other pod, again and again."""
    waits_s = []
    with _generations(it.lab.node) as seen:
        for number in range(1, _CHANGES + 1):
            waits_s.append(_until_answers(it, it.lab.pods[number % 2].ip4))  # noqa: PERF401
    return waits_s, seen[0]


def _until_answers(it: Cluster, pod: str) -> float:
    written_s: float = it.order("set", pod)["at_s"]
    while it.caller.ask() != pod:
        if time.monotonic() - written_s > _PATIENCE_S:
            raise CommandFailed(f"a change had no effect within {_PATIENCE_S:g} s")
    return time.monotonic() - written_s


def _flips(it: Cluster) -> int:
    pod = it.lab.pods[0].ip4
    with _generations(it.lab.node) as seen:
        for _ in range(_FLIPS):
            it.order("set", "-")
            while it.caller.ask():
                pass
            _until_answers(it, pod)
    return seen[0]


@contextmanager
def _generations(node: Host) -> Iterator[list[int]]:
    """Count the kernel's ruleset transactions, of whatever program."""
    monitor = node.exec("nft", "monitor", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    time.sleep(0.3)  # it says nothing once it listens
    seen = [0]
    yield seen
    time.sleep(0.3)
    monitor.terminate()
    output, _ = monitor.communicate()
    seen[0] = output.count("# new generation")


def _burst(it: Cluster) -> tuple[float, float]:
    """Events a second, until all are programmed; and what the loop could do with a CPU of its own."""
    it.figures()
    begun_s = it.order("burst", _BURST)["at_s"]
    lines, cpu_s = 0, 0.0
    deadline_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline_s:
        time.sleep(1)
        figures = it.figures()
        lines, cpu_s = lines + figures.lines, cpu_s + figures.cpu_s
        if lines >= _BURST and not figures.pending:
            return _BURST / (figures.programmed_at_s - begun_s), _BURST / cpu_s
    raise CommandFailed(f"{lines} of {_BURST} events came within {_PATIENCE_S:g} s")


# ---- the table ----


def _table(rounds: list[Round]) -> Iterator[str]:
    mib = 2**20
    yield _row("start to ready, s", [r.ready_s for r in rounds], "<= 5", "{:.2f}")
    yield _row("resident memory, MiB", [r.rss_bytes / mib for r in rounds], "<= 300", "{:.0f}")
    yield _row("  its peak, MiB", [r.peak_rss_bytes / mib for r in rounds], "", "{:.0f}")
    for name, of in (("p50", 50), ("p99", 99)):
        bar = "<= 20" if of == 99 else ""
        inside = [_percentile(r.inside_s, of) * 1e3 for r in rounds]
        outside = [_percentile(r.outside_s, of) * 1e3 for r in rounds]
        yield _row(f"a slice's change until routed, inside, {name}, ms", inside, bar, "{:.2f}")
        yield _row(f"  from the write until the new endpoint answers, {name}", outside, "", "{:.2f}")
    generations = [r.generations / _CHANGES for r in rounds]
    flips = [r.flip_generations / (2 * _FLIPS) for r in rounds]
    yield _row("ruleset transactions, change of a non-empty set", generations, "0", "{:.2f}")
    yield _row("ruleset transactions, to empty or from empty", flips, "<= 1", "{:.2f}")
    rolled = f"{_ROLLED:,} endpoints in {_ROLL_S:g} s"
    yield _row(
        f"{rolled}: loop's longest stall, ms", [r.roll_stall_s * 1e3 for r in rounds], "< 10", "{:.1f}"
    )
    yield _row(
        "  CPU time of the loop's own thread in one, ms",
        [r.roll_stall_cpu_s * 1e3 for r in rounds],
        "",
        "{:.1f}",
    )
    yield _row(
        f"  idle, {_QUIET_S:g} s: longest stall, ms", [r.idle_stall_s * 1e3 for r in rounds], "", "{:.1f}"
    )
    yield _row(
        "  a change until routed, inside, p99, ms",
        [_percentile(r.roll_inside_s, 99) * 1e3 for r in rounds],
        "",
        "{:.2f}",
    )
    yield _row(
        "events programmed, each another slice's, 1/s",
        [r.burst_per_s for r in rounds],
        "",
        "{:,.0f}",
        worst=min,
    )
    yield _row(
        "  the same, for a second of the loop's CPU",
        [r.burst_per_cpu_s for r in rounds],
        "",
        "{:,.0f}",
        worst=min,
    )


def _row(what: str, figures: list[float], bar: str, form: str, worst: "type[max] | object" = max) -> str:
    extreme = (min if worst is min else max)(figures)
    return f"{what:<58}{form.format(median(figures)):>10}{form.format(extreme):>10}   {bar}".rstrip()


def _percentile(figures: list[float], of: int) -> float:
    return quantiles(figures, n=100, method="inclusive")[of - 1]


if __name__ == "__main__":
    sys.exit(main())
