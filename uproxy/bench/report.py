"""Writes what a run found: for people, for programs, for a README, for HdrHistogram's plotter.

Owns the files and their names. What is in them is the business of `page`, `summary` and
`latency`.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from uproxy.bench.latency import Latencies
from uproxy.bench.page.document import document
from uproxy.bench.results import Results
from uproxy.bench.summary import summary
from uproxy.errors import UproxyError


def write_report(results: Results, directory: Path) -> list[Path]:
    """Write report.html, results.json, summary.md and an .hgrm for each measurement with a histogram.

    Makes the directory, replaces older files of the same names, and returns all it wrote. Raises
    UproxyError when something cannot be written.
    """
    written: list[Path] = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in _files(results):
            path = directory / name
            path.write_text(text, encoding="utf-8")
            written.append(path)
    except OSError as error:
        raise UproxyError(f"the report cannot be written: {error}") from error
    return sorted(written, key=lambda path: path.name != "report.html")  # what to open comes first


def _files(results: Results) -> Iterator[tuple[str, str]]:
    """Results first: whatever a later one comes to, they are kept."""
    yield "results.json", msgspec.json.format(msgspec.json.encode(results), indent=2).decode() + "\n"
    yield "report.html", document(results)
    yield "summary.md", summary(results)
    for name, histogram in _histograms(results):
        yield f"{name}.hgrm", Latencies.decode(histogram).hgrm()


def _histograms(results: Results) -> Iterator[tuple[str, str]]:
    """By a name that is safe for a file: a target's is whatever the user made it."""
    taken: set[str] = set()
    for m in results.measurements:
        if m.histogram:
            name = plain = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{m.workload}.{m.path}")
            number = 2
            while name.casefold() in taken:
                name, number = f"{plain}-{number}", number + 1
            taken.add(name.casefold())
            yield name, m.histogram
