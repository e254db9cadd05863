"""Two runs side by side: what changed beyond noise, and whether something got worse.

Pure but for reading a file. A change is told when the old and the new 95 % interval do not meet,
and is a regression when it is for the worse by more than the tolerance as well. Ratios to direct
come first: they outlive a change of machine. Absolute figures and microseconds are compared on
the same machine only. What was not measured in rounds, as CPU or memory, has no interval; it is
told when it moved by more than the tolerance, and never judged.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from uproxy.bench.deltas import Delta, compared_figures, moved_figures
from uproxy.bench.results import FORMAT, Machine, Measurement, Results
from uproxy.bench.titles import is_spoilt
from uproxy.model.faults import BadInput, Fault


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of one path that is not what it was."""

    workload: str
    path: str
    text: str
    """What it was and what it is, with the ends of both intervals."""
    regressed: bool
    """Worse, and by more than the tolerance."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two runs say together."""

    changes: tuple[Change, ...]
    unjudged: tuple[str, ...]
    """Figures without an interval that moved by more than the tolerance."""
    notes: tuple[str, ...]
    """What could not be compared, and why."""
    compared: int
    """Measurements of both runs that had an interval to compare."""
    tolerance: float
    """A share: 0.05 is 5 %."""

    @property
    def possible(self) -> bool:
        """Whether anything could be compared: no regression in nothing proves nothing."""
        return self.compared > 0

    @property
    def regressed(self) -> bool:
        """Whether any figure got worse beyond noise and tolerance."""
        return any(change.regressed for change in self.changes)

    def lines(self) -> list[str]:
        """Say it all, the worst first."""
        worse = [change for change in self.changes if change.regressed]
        other = [change for change in self.changes if not change.regressed]
        told = [f"REGRESSED {one.workload} {one.path}: {one.text}" for one in worse]
        told += [f"changed {one.workload} {one.path}: {one.text}" for one in other]
        told += [f"not judged, having no interval: {line}" for line in self.unjudged]
        told += [f"not compared: {note}" for note in self.notes]
        return [self._headline(len(worse)), *told]

    def _headline(self, worse: int) -> str:
        if not self.possible:
            return "nothing could be compared with the older run"
        measured = f"{self.compared} measurement{'' if self.compared == 1 else 's'} compared"
        if not self.changes:
            return f"{measured}: nothing changed beyond noise"
        verdict = f"{worse} worse by more than {self.tolerance:.0%}" if worse else "none a regression"
        return f"{measured}: {len(self.changes)} changed beyond noise, {verdict}"


def read_results(path: Path) -> Results:
    """Read a results.json.

    Raises BadInput when it is missing, is not one, or is of another format number.
    """
    try:
        content = path.read_bytes()
        found = msgspec.json.decode(content, type=_Numbered).format
        if found != FORMAT:
            raise _bad(path, f"has format {found}, and this uproxy reads format {FORMAT}: measure again")
        return msgspec.json.decode(content, type=Results)
    except OSError as error:
        raise _bad(path, f"cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _bad(path, f"is no results.json of uproxy bench: {error}") from error


class _Numbered(msgspec.Struct):
    format: int


def _bad(path: Path, message: str) -> BadInput:
    return BadInput((Fault(str(path), 0, "", None, "", message),))


def compare(old: Results, new: Results, tolerance: float) -> Comparison:
    """Compare every path and workload that both runs have; `tolerance` is a share, 0.05 for 5 %."""
    then, now = old.machine.generator, new.machine.generator
    if then != now:
        return Comparison((), (), (f"anything: the {then} generator made the load, now {now}",), 0, tolerance)
    moved = _moved(old.machine, new.machine)
    pairs = _pairs(old, new)
    found = [(b, compared_figures(a, b, same_machine=not moved)) for a, b in pairs]
    baselines = _baselines(new)
    return Comparison(
        changes=tuple(
            _change(m, delta, tolerance, is_baseline=(m.workload, m.path) in baselines)
            for m, deltas in found
            for delta in deltas
            if delta.loss
        ),
        unjudged=() if moved else tuple(line for pair in pairs for line in moved_figures(*pair, tolerance)),
        notes=tuple(_notes(old, new, moved)),
        compared=sum(bool(deltas) for _, deltas in found),
        tolerance=tolerance,
    )


def _change(m: Measurement, delta: Delta, tolerance: float, *, is_baseline: bool) -> Change:
    """A baseline that changed is the machine's doing, and no regression of anything under test."""
    said = f"{delta.text}; it is the baseline, so the machine changed its mood" if is_baseline else delta.text
    return Change(m.workload, m.path, said, delta.loss > tolerance and not is_baseline)


def _by_key(results: Results) -> dict[tuple[str, str], Measurement]:
    return {(m.workload, m.path): m for m in results.measurements}


def _pairs(old: Results, new: Results) -> list[tuple[Measurement, Measurement]]:
    before = _by_key(old)
    return [(before[key], m) for key, m in _by_key(new).items() if key in before]


def _baselines(results: Results) -> set[tuple[str, str]]:
    """What others have a ratio to, having none itself."""
    compared = {m.workload for m in results.measurements if m.ops_ratio_to_direct}
    return {
        key for key, m in _by_key(results).items() if m.workload in compared and not m.ops_ratio_to_direct
    }


def _notes(old: Results, new: Results, moved: str) -> list[str]:
    before, now = _by_key(old), _by_key(new)
    notes = [f"absolute figures, because of another machine: {moved}"] if moved else []
    notes += [f"{' '.join(key)}: only in the old run" for key in before if key not in now]
    notes += [f"{' '.join(key)}: only in the new run" for key in now if key not in before]
    return notes + [
        f"{a.workload} {a.path}: the old run had errors" for a, _ in _pairs(old, new) if is_spoilt(a)
    ]


def _moved(old: Machine, new: Machine) -> str:
    """What differs between two machines; empty when they are the same, whatever runs on them."""
    facts = ("cpu", "cores", "memory_bytes", "kernel", "governor")
    pairs = ((fact, getattr(old, fact), getattr(new, fact)) for fact in facts)
    return ", ".join(f"{fact} was {then}, is {now}" for fact, then, now in pairs if then != now)
