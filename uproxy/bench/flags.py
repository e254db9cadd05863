"""The flags of `uproxy bench`, and their defaults.

Apart from what reads them, so that `uproxy --help` and `uproxy run` load nothing of the bench,
which has dependencies of its own.
"""

import argparse
from dataclasses import dataclass

TOLERANCE_PERCENT = 5.0


@dataclass(frozen=True, slots=True)
class Defaults:
    """How much is measured, unless something else is asked for."""

    rounds: int
    duration_s: float
    """Of each measurement."""
    failover_s: float
    changes: int
    """Of endpoints, for churn."""


USUAL = Defaults(rounds=7, duration_s=0.3, failover_s=6.0, changes=10)
QUICK = Defaults(rounds=3, duration_s=0.1, failover_s=3.0, changes=4)


def add_bench_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `uproxy bench`."""
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--target",
        dest="targets",
        action="append",
        default=[],
        metavar="[NAME=]HOST:PORT",
        help="something that exists already, such as vip=10.96.0.10:80, with --echo behind it; the first is "
        "what others are compared with, or the one called direct; repeatable",
    )
    what.add_argument("--echo", metavar="ADDR:PORT", help="be the server for --target, until told to stop")
    what.add_argument("--peers", default="", metavar="P,...", help="other proxies too: haproxy, nginx")
    what.add_argument(
        "--workload", metavar="W,...", help="names such as rr-64x64B, or kinds: rr, crr, stream, idle, ..."
    )
    what.add_argument("--path", metavar="P,...", help="only these, and direct: uproxy-bind, kernel-dnat, ...")
    how = parser.add_argument_group("how")
    how.add_argument("--rounds", metavar="N", help=f"(default: {USUAL.rounds})")
    how.add_argument(
        "--duration", metavar="SECONDS", help=f"of each measurement (default: {USUAL.duration_s})"
    )
    how.add_argument("--quick", action="store_true", help="everything in under a minute, less exactly")
    how.add_argument(
        "--rate",
        metavar="PER_S",
        help="operations a second, on a schedule (default: as fast as each path goes)",
    )
    results = parser.add_argument_group("results")
    results.add_argument(
        "--report", metavar="DIR", help="write report.html, results.json, summary.md, *.hgrm"
    )
    results.add_argument(
        "--compare", metavar="OLD.json", help="tell what changed since; exit 1 on a regression"
    )
    results.add_argument(
        "--tolerance",
        metavar="PERCENT",
        help=f"how much worse is a regression (default: {TOLERANCE_PERCENT:g})",
    )
