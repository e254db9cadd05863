"""The whole run in one table: paths by what matters, for the first screen of every form of the report. Pure.

Owns which workload answers which question (as `verdict.py` has it), whose figure is the best of its column,
and which figures are doubtful. A best is marked only where there is something to choose from, and what errors
have spoilt is not shown at all. The baseline, which the run has first, is what the others are held against.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from uproxy.bench.figures import NONE, duration, proxy_cpu_us_per_op, times
from uproxy.bench.results import Measurement, Results
from uproxy.bench.titles import is_spoilt
from uproxy.bench.verdict import Answers, answers

HINT = "Best of each column in bold; ~ marks what the run itself doubts. x: times direct, in the same rounds."


class Cell(NamedTuple):
    """One figure."""

    text: str
    is_best: bool = False
    is_doubtful: bool = False


class Row(NamedTuple):
    """One path, a cell for each head."""

    path: str
    cells: tuple[Cell, ...]


class Glance(NamedTuple):
    """The table; without rows where nothing was compared with direct."""

    heads: tuple[str, ...]
    rows: tuple[Row, ...]


class _Column(NamedTuple):
    head: str
    measured: dict[str, Measurement]
    """Its workload, by path."""
    figure: Callable[[Measurement], float | None]
    text: Callable[[float], str]
    smaller_wins: bool


def glance(results: Results) -> Glance:
    """Every path but the baseline, in the order of the run; columns that nobody has are left out."""
    baseline, *paths = dict.fromkeys(m.path for m in results.measurements) or [""]
    columns = _columns(answers(results.measurements), baseline)
    known = [column for column in columns if _figures(column).keys() & set(paths)]
    cells = {column.head: _cells(column, paths) for column in known}
    rows = (Row(path, tuple(cells[column.head][path] for column in known)) for path in paths)
    return Glance(tuple(cells), tuple(rows) if known else ())


def _columns(of: Answers, baseline: str) -> Sequence[_Column]:
    before = of.waiting.get(baseline)
    before_us = before.p99_us if before is not None else None

    def added_p99_us(m: Measurement) -> float | None:
        if m is before or m.p99_us is None or before_us is None:
            return None
        return m.p99_us - before_us

    return (
        _Column("added p50", of.waiting, _added_p50_us, duration, smaller_wins=True),
        _Column("added p99", of.waiting, added_p99_us, duration, smaller_wins=True),
        _Column("requests", of.exchanges, _ratio, times, smaller_wins=False),
        _Column("connects", of.connections, _ratio, times, smaller_wins=False),
        _Column("bytes", of.bulk, _ratio, times, smaller_wins=False),
        _Column("CPU/request", of.exchanges, proxy_cpu_us_per_op, duration, smaller_wins=True),
    )


def _added_p50_us(m: Measurement) -> float | None:
    return m.p50_us_over_direct.median if m.p50_us_over_direct else None


def _ratio(m: Measurement) -> float | None:
    return m.ops_ratio_to_direct.median if m.ops_ratio_to_direct else None


def _figures(column: _Column) -> dict[str, float]:
    pairs = ((path, column.figure(m)) for path, m in column.measured.items() if not is_spoilt(m))
    return {path: figure for path, figure in pairs if figure is not None}


def _cells(column: _Column, paths: Sequence[str]) -> dict[str, Cell]:
    figures = {path: figure for path, figure in _figures(column).items() if path in paths}
    best = (min if column.smaller_wins else max)(figures.values())
    found = dict.fromkeys(paths, Cell(NONE))
    for path, figure in figures.items():
        doubts = column.measured[path].warnings
        found[path] = Cell(column.text(figure), figure == best and len(figures) > 1, bool(doubts))
    return found
