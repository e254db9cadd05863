"""What the flags of `uproxy bench` ask for, as one checked value.

Owns finding every mistake at once, before anything is built. Looks at files that are named,
never at the machine.
"""

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from uproxy.bench.compare import read_results
from uproxy.bench.flags import QUICK, TOLERANCE_PERCENT, USUAL
from uproxy.bench.paths import PEERS
from uproxy.bench.results import Results
from uproxy.bench.run import Scale
from uproxy.bench.targets import Target, parse_targets
from uproxy.bench.workloads import Load, Workload, default_workloads, parse_workloads
from uproxy.model.faults import BadInput, Fault
from uproxy.settings import Address, parse_address

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Options:
    """What one run is to do."""

    targets: tuple[Target, ...]
    """Baseline first; empty for paths that are built here."""
    echo: Address | None
    """Serve there, and measure nothing."""
    peers: tuple[str, ...]
    workloads: tuple[Workload, ...]
    paths: tuple[str, ...]
    """Names; empty for all."""
    quick: bool
    """Whether to leave out uproxy's second relay."""
    scale: Scale
    report: Path | None
    compare: Results | None
    tolerance: float
    """Share of a figure, 0.05 is 5 %."""


def parse_options(flags: argparse.Namespace) -> Options:
    """Check the flags. Raises BadInput with every mistake."""
    checks = _Checks()
    rate = checks.optional("--rate", flags.rate, _positive)
    workloads = checks.of("--workload", flags.workload, parse_workloads, default_workloads())
    if rate is not None and flags.workload is None:
        # All have one rate already; at their own they would be the same again.
        workloads = tuple(one for one in workloads if not (isinstance(one, Load) and one.paced))
    options = Options(
        targets=checks.of("--target", flags.targets or None, parse_targets, ()),
        echo=checks.optional("--echo", flags.echo, parse_address),
        peers=checks.of("--peers", flags.peers, _peers, ()),
        workloads=workloads,
        paths=tuple(_names(flags.path or "")),
        quick=flags.quick,
        scale=_scale(checks, flags, rate),
        report=checks.optional("--report", flags.report, _writable),
        compare=checks.optional("--compare", flags.compare, _old_results),
        tolerance=checks.of("--tolerance", flags.tolerance, _percentage, TOLERANCE_PERCENT / 100),
    )
    if options.targets and (options.paths or options.peers):
        checks.note("--target", "measures what exists: --path and --peers are for what is built here")
    if checks.faults:
        raise BadInput(tuple(checks.faults))
    return options


def _scale(checks: "_Checks", flags: argparse.Namespace, rate: float | None) -> Scale:
    usual = QUICK if flags.quick else USUAL
    return Scale(
        rounds=checks.of("--rounds", flags.rounds, _count, usual.rounds),
        duration_s=checks.of("--duration", flags.duration, _positive, usual.duration_s),
        rate_per_s=rate,
        failover_s=usual.failover_s,
        changes=usual.changes,
    )


class _Checks:
    """Collects mistakes, flag by flag."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def note(self, flag: str, message: str) -> None:
        self.faults.append(Fault(flag, 0, "", None, "", message))

    def of(self, flag: str, given: object, parse: Callable[..., T], default: T) -> T:
        """What a flag says; the default when it is absent, or wrong."""
        if given is None or given == "":
            return default
        try:
            return parse(given)
        except BadInput as error:
            self.faults += error.faults
        except (ValueError, OSError) as error:
            self.note(flag, str(error))
        return default

    def optional(self, flag: str, given: object, parse: Callable[..., T]) -> T | None:
        """As `of`, for a flag without a default."""
        nothing: T | None = None
        return self.of(flag, given, parse, nothing)


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(filter(None, (part.strip() for part in text.split(",")))))


def _peers(text: str) -> tuple[str, ...]:
    names = _names(text)
    if unknown := [name for name in names if name not in PEERS]:
        raise ValueError(f"no peer is called {', '.join(unknown)}; there are {', '.join(PEERS)}")
    return tuple(names)


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 1000:
        raise ValueError(f"{text!r} is not a whole number from 1 to 1000")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise ValueError(f"{text!r} is not a number above 0")
    return value


def _percentage(text: str) -> float:
    return _positive(text.removesuffix("%")) / 100


def _writable(text: str) -> Path:
    """A directory for the report, made now: nobody wants to learn of it after minutes of measuring."""
    directory = Path(text)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{text} cannot be made: {error.strerror}") from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ValueError(f"{text} cannot be written to")
    return directory


def _old_results(text: str) -> Results:
    return read_results(Path(text))
