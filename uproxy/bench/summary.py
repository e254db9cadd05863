"""summary.md: the verdict and a table for each workload, to be pasted into a README. Pure."""

from collections.abc import Iterable

from uproxy.bench.columns import Column, filled, warnings_of
from uproxy.bench.figures import size
from uproxy.bench.glance import Cell, Glance, glance
from uproxy.bench.results import Machine, Measurement, Results
from uproxy.bench.titles import is_spoilt, title
from uproxy.bench.verdict import PathVerdict, verdict

_TOO_MUCH = ("asked", "p90", "p99.9", "p99.99", "max", "p99 uncorrected")
"""Columns of the page that a README does without."""


def summary(results: Results) -> str:
    """Lay out summary.md."""
    found = verdict(results)
    workloads = dict.fromkeys(m.workload for m in results.measurements)
    blocks = [
        _bold(results.warnings),
        ""
        if results.complete
        else "**This run was interrupted: rounds, or whole measurements, are missing.**",
        _glance(glance(results)),
        _listed([_path_verdict(one) for one in found.paths]),
        _listed([_escaped(line) for line in found.ranking]),
        *(_workload(name, [m for m in results.measurements if m.workload == name]) for name in workloads),
        _machine_line(results.machine, results.started),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _glance(found: Glance) -> str:
    if not found.rows:
        return ""
    rows = [_row(["path", *found.heads]), "|---" + "|---:" * len(found.heads) + "|"]
    rows += [f"| {_escaped(row.path)} | {' | '.join(map(_glance_cell, row.cells))} |" for row in found.rows]
    return "\n".join(rows)


def _glance_cell(cell: Cell) -> str:
    bold = "**" if cell.is_best else ""
    return f"{bold}{_escaped(cell.text)}{bold}{' ~' if cell.is_doubtful else ''}"


def _path_verdict(one: PathVerdict) -> str:
    says = f"{one.says}." if one.says else ""
    caveat = f"_{_escaped(one.caveat)}_" if one.caveat else ""
    return " ".join(part for part in (f"**{_escaped(one.path)}**", _escaped(says), caveat) if part)


def _workload(name: str, measured: list[Measurement]) -> str:
    columns = [column for column in filled(measured) if column.head not in _TOO_MUCH]
    head = _row(["path", *(column.head for column in columns)])
    rule = "|---" + "|---:" * len(columns) + "|"
    rows = [_row([m.path, *_cells(m, columns)]) for m in measured]
    warned = [_escaped(warning) for warning in warnings_of(measured)]
    named = "" if title(name) == name else f" (`{name}`)"
    table = "\n".join([head, rule, *rows])
    return "\n\n".join(
        part for part in (f"**{_escaped(title(name))}**{named}", table, _listed(warned)) if part
    )


def _cells(m: Measurement, columns: Iterable[Column]) -> list[str]:
    errors, *others = (column.cell(m) for column in columns)
    return [f"{errors}: not comparable", *others] if is_spoilt(m) else [errors, *others]


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(map(_escaped, cells)) + " |"


def _bold(texts: Iterable[str]) -> str:
    return "\n\n".join(f"**{_escaped(text)}**" for text in texts)


def _listed(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _escaped(text: str) -> str:
    """What Markdown or HTML would take for its own; a line is one line."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    for sign in "\\|`*_[]":
        text = text.replace(sign, f"\\{sign}")
    return text


def _machine_line(machine: Machine, started: str) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    facts = (
        f"{machine.cpu}, {machine.cores} cores, governor {machine.governor}, {size(machine.memory_bytes)}",
        f"Linux {machine.kernel}",
        versions,
        f"{machine.generator} load generator",
        started.partition("T")[0],
    )
    return f"Measured on: {_escaped('; '.join(fact for fact in facts if fact))}."
