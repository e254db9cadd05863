"""`uproxy bench`: one run from its options to what is printed and written.

Owns the exit status: 0 measured; 1 bad input, a path that failed, a rate that was not reached, a
regression; 130 after Ctrl-C, when what had been measured until then is printed and written.
"""

import argparse
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from uproxy.bench.assemble import noise_of_run
from uproxy.bench.compare import compare
from uproxy.bench.fingerprint import fingerprint
from uproxy.bench.generator import generator
from uproxy.bench.options import Options, parse_options
from uproxy.bench.paths import TrafficPath, known_paths
from uproxy.bench.progress import Progress
from uproxy.bench.record import Record
from uproxy.bench.report import write_report
from uproxy.bench.results import DIRECT, Results
from uproxy.bench.run import Run, planned_s
from uproxy.bench.sites import POD_NAMES, ThisMachine, lab_site, loopback_site
from uproxy.bench.table import table
from uproxy.bench.targets import check_reachable, stage
from uproxy.bench.workloads import Load, Spread
from uproxy.dataplane.relay.native_relay import engine_or_reason
from uproxy.errors import UproxyError
from uproxy.kit.endings import telling
from uproxy.kit.lab import Lab, reason_unavailable
from uproxy.model.faults import BadInput, Fault
from uproxy.settings import Address

_INTERRUPTED = 130


def bench(flags: argparse.Namespace) -> int:
    """Carry out `uproxy bench`; returns the exit status. Raises UproxyError before anything is measured."""
    options = parse_options(flags)
    if options.echo:
        _serve(options.echo)
    return _of_targets(options) if options.targets else _of_paths(options)


def _serve(address: Address) -> None:
    """Become the server. Does not return."""
    host, port = address
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    argv = [sys.executable, "-m", "uproxy.bench.load", "serve", where, "--name", socket.gethostname()]
    os.execv(sys.executable, argv)


def _of_targets(options: Options) -> int:
    check_reachable(options.targets)
    baseline = options.targets[0].name
    record = Record(baseline)
    workloads = tuple(one for one in options.workloads if isinstance(one, Load | Spread))
    if not workloads:
        raise _fault(
            "--workload", "a target's memory and endpoints are not ours to touch: rr, crr, stream, ..."
        )
    if len(options.targets) > 1 and baseline != DIRECT:
        record.warnings.append(f"ratios and differences are to {baseline}, the first target")
    progress = Progress(planned_s(len(options.targets), workloads, options.scale))
    with _interruptible() as interrupted, progress, generator(ThisMachine()) as client:
        stages = [stage(target, client) for target in options.targets]
        Run(record, progress, options.scale).over_stages(stages, workloads)
    return _tell(options, record, complete=not interrupted)


def _of_paths(options: Options) -> int:
    no_lab = reason_unavailable()
    relay = "python" if engine_or_reason() else "native"
    known = known_paths(options.peers, no_lab, relay)
    chosen = choose_paths(options, known)
    record = Record(DIRECT, endpoints=POD_NAMES)
    for path in chosen:
        if path.missing:
            record.leave_out(path.name, path.missing)
        else:
            record.proxies[path.name] = path.program
    ready = [path for path in chosen if not path.missing]
    if no_lab:
        record.warnings.append(f"on loopback, which is shorter than any network: {no_lab}")
    progress = Progress(planned_s(len(ready), options.workloads, options.scale))
    with _interruptible() as interrupted, progress:
        Run(record, progress, options.scale).over_built(
            ready, loopback_site if no_lab else lab_site, options.workloads
        )
    Lab.remove_strays()
    return _tell(options, record, complete=not interrupted)


def choose_paths(options: Options, known: Sequence[TrafficPath]) -> list[TrafficPath]:
    """The paths asked for, and direct: without it the others would be lone figures.

    Raises BadInput for a name that none of `known` has.
    """
    if unknown := set(options.paths) - {path.name for path in known}:
        there_are = ", ".join(path.name for path in known)
        raise _fault("--path", f"no path is called {', '.join(sorted(unknown))}; there are {there_are}")
    if options.paths:
        return [path for path in known if path.name in (DIRECT, *options.paths)]
    return [path for path in known if not (options.quick and path.is_second_relay)]


@contextmanager
def _interruptible() -> Iterator[list[str]]:
    """Let Ctrl-C and every other signal end the block early, once; the list is not empty then.

    Further ones count for nothing until everything that was built is removed again.
    """
    seen: list[str] = []

    def interrupt() -> None:
        if not seen:
            seen.append("interrupted")
            raise KeyboardInterrupt

    with telling(interrupt), suppress(KeyboardInterrupt):
        yield seen


def _tell(options: Options, record: Record, *, complete: bool) -> int:
    """Print and write what was found; returns the exit status."""
    results = _results(options, record, complete=complete)
    if not results.measurements:
        raise UproxyError("\n".join(["nothing was measured", *_lines(record.left_out)]))
    print(table(results, _terminal_width()))
    if options.report:
        written = write_report(results, options.report)
        print(f"\nreport: {written[0].parent}/ ({len(written)} files, report.html first)")
    unsustained = record.unsustained() if options.scale.rate_per_s else []
    for line in unsustained:
        print(f"not reached: {line}", file=sys.stderr)
    regressed = _compared(options, results)
    if not complete:
        print("interrupted: what had been measured until then is above", file=sys.stderr)
        return _INTERRUPTED
    return 1 if unsustained or regressed or record.failed else 0


def _terminal_width() -> int | None:
    """None where no terminal is written to: a file or a pipe has room for all."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _compared(options: Options, results: Results) -> bool:
    """Print what changed since the old results; whether something is worse than tolerated, or nothing
    could be compared, which must not pass for good news."""
    if options.compare is None:
        return False
    comparison = compare(options.compare, results, options.tolerance)
    print("\n".join(["", *comparison.lines()]))
    return comparison.regressed or not comparison.possible


def _results(options: Options, record: Record, *, complete: bool) -> Results:
    samples = [sample for rounds in record.samples.values() for sample in rounds]
    generator = "python" if any(one.outcome.generator == "python" for one in samples) else "native"
    measurements = record.measurements(options.workloads)
    relay = "python" if engine_or_reason() else "native"
    return Results(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        command=["uproxy", *sys.argv[1:]],
        seconds_per_measurement=options.scale.duration_s,
        complete=complete,
        machine=fingerprint(options.peers, relay, generator),
        measurements=measurements,
        left_out=record.left_out,
        warnings=record.warnings + noise_of_run(measurements, samples),
    )


def _lines(reasons: dict[str, str]) -> list[str]:
    return [f"{what}: {why}" for what, why in reasons.items()]


def _fault(flag: str, message: str) -> BadInput:
    return BadInput((Fault(flag, 0, "", None, "", message),))
