"""What a run found, for a terminal: one block for each workload, then what it means. Pure.

No figure stands alone: beside it are the ratio to direct, or what the path adds to direct, both
with their 95 % interval.
"""

from collections.abc import Sequence
from textwrap import fill

from msgspec.structs import replace

from uproxy.bench.assemble import is_noise
from uproxy.bench.columns import COLUMNS, Column, warnings_of
from uproxy.bench.figures import NONE, number
from uproxy.bench.glance import Cell, Glance, glance
from uproxy.bench.results import Measurement, Results
from uproxy.bench.titles import is_bulk, title, understood
from uproxy.bench.verdict import verdict
from uproxy.bench.workloads import Churn, Failover, Idle, Load, Spread

_AT_SATURATION = ("per second", "x direct", "p50", "added p50", "p99", "CPU all", "CPU proxy")
_AT_A_RATE = ("p50", "added p50", "p99", "p99.9", "max", "p99 uncorrected", "CPU proxy")
_STREAMS = ("per second", "x direct", "CPU s/GB")
_IDLE = ("RSS/conn", "kernel/conn")
_SPREAD = ("per second",)
_CHURN = ("live after", "longest stall", "errors")
_FAILOVER = ("errors", "longest stall", "p50", "p99", "max")
_LEFT_OUT_FIRST = ("CPU all", "p99 uncorrected", "p99.9", "CPU proxy", "p50", "per second", "max", "p99")
"""Where there is no room; the ratio to direct and what is added to it stay."""
_BY_HEAD = {column.head: column for column in COLUMNS}


def table(results: Results, width: int | None = None) -> str:
    """Lay out a whole run. On a terminal of that `width`, columns that have no room are left out: the report
    has them all."""
    names = dict.fromkeys(one.workload for one in results.measurements)
    blocks = [_block(name, [m for m in results.measurements if m.workload == name], width) for name in names]
    parts = [*blocks, _in_short(results, width), _left_out(results, width), _whole_run(results, width)]
    return "\n\n".join(filter(None, parts))


def _block(name: str, measured: Sequence[Measurement], width: int | None) -> str:
    columns = _columns(name, measured)
    for head in _LEFT_OUT_FIRST:
        if width is None or _width(columns, measured) <= width:
            break
        columns = [column for column in columns if column.head != head]
    warned = [replace(m, warnings=[one for one in m.warnings if not is_noise(one)]) for m in measured]
    return "\n".join(
        [
            f"{name}: {title(name)}{_pace(measured)}",
            *_laid_out(columns, measured),
            *(_folded(f"  ! {warning}", width) for warning in warnings_of(warned)),
        ]
    )


def _laid_out(columns: Sequence[Column], measured: Sequence[Measurement]) -> list[str]:
    rows = [[_marked(m), *(column.cell(m) for column in columns)] for m in measured]
    return _aligned([["", *(column.head for column in columns)], *rows])


def _width(columns: Sequence[Column], measured: Sequence[Measurement]) -> int:
    return max(map(len, _laid_out(columns, measured)))


def _marked(m: Measurement) -> str:
    """The path's name, with a sign when noise disturbed it: the words are the same for nearly all."""
    return f"{m.path} ~" if any(map(is_noise, m.warnings)) else m.path


def _columns(name: str, measured: Sequence[Measurement]) -> list[Column]:
    found = [_BY_HEAD[head] for head in _heads(name, measured)]
    if isinstance(understood(name), Spread):
        found.append(Column("who got how many", "", _shares))
    filled = [column for column in found if any(column.cell(m) != NONE for m in measured)]
    failed = any(m.errors for m in measured) and _BY_HEAD["errors"] not in filled
    return [*filled, _BY_HEAD["errors"]] if failed else filled


def _heads(name: str, measured: Sequence[Measurement]) -> Sequence[str]:
    match understood(name):
        case Idle():
            return _IDLE
        case Spread():
            return _SPREAD
        case Churn():
            return _CHURN
        case Failover():
            return _FAILOVER
        case Load() | None:
            if is_bulk(name):
                return _STREAMS
            return _AT_SATURATION if measured[0].rate_per_s is None else _AT_A_RATE


def _pace(measured: Sequence[Measurement]) -> str:
    rate = measured[0].rate_per_s
    return f", {number(rate)} per second" if rate else ""


def _shares(m: Measurement) -> str:
    if m.spread is None or not (total := sum(m.spread.by_endpoint.values())):
        return NONE
    shares = " ".join(f"{name} {count / total:.1%}" for name, count in sorted(m.spread.by_endpoint.items()))
    return f"{shares} (busiest {m.spread.max_over_mean:.2f} x mean)"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(_cells(row, widths)).rstrip() for row in rows]


def _cells(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    path, *figures = row
    return [
        path.ljust(widths[0]),
        *(text.rjust(width) for text, width in zip(figures, widths[1:], strict=True)),
    ]


def _in_short(results: Results, width: int | None) -> str:
    found = verdict(results)
    said = [f"{one.path} {one.says}".rstrip(".") + "." for one in found.paths if one.says]
    lines = [_folded(f"  {line}", width) for line in (*said, *found.ranking)]
    shown = [*_glance(glance(results), width), *lines]
    return "\n".join(["In short (with 95 % confidence):", *shown]) if shown else ""


def _glance(found: Glance, width: int | None) -> list[str]:
    """The best of each column has a sign that needs no colour. What has no room goes from the right."""
    if not found.rows:
        return []
    rows = [["", *found.heads], *([row.path, *map(_glance_cell, row.cells)] for row in found.rows)]
    while width is not None and len(rows[0]) > 2 and max(map(len, _aligned(rows))) > width:
        rows = [row[:-1] for row in rows]
    return [*_aligned(rows), "  * best of its column, ~ doubtful", ""]


def _glance_cell(cell: Cell) -> str:
    signs = ("*" if cell.is_best else "") + ("~" if cell.is_doubtful else "")
    return cell.text + (signs or " ")


def _left_out(results: Results, width: int | None) -> str:
    return "\n".join(_folded(f"left out: {what}: {why}", width) for what, why in results.left_out.items())


def _whole_run(results: Results, width: int | None) -> str:
    return "\n".join(_folded(f"{'~' if is_noise(one) else '!'} {one}", width) for one in results.warnings)


def _folded(line: str, width: int | None) -> str:
    """A line, as long as it is where there is no terminal."""
    return line if width is None else fill(line, width, subsequent_indent="      ")
