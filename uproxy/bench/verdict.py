"""The verdict: what a run allows to be said, in plain words, and nothing beyond it.

Pure. A path is said to be slower or faster than direct only when its 95 % interval leaves out
"no difference", and one path to be ahead of another only when their intervals do not meet (which
is stricter than a test of the difference: N. Schenker and J. F. Gentleman, "On judging the
significance of differences by examining the overlap between confidence intervals", The American
Statistician 55 (2001) 182-186). Figures without an interval, as CPU, are told, never ranked.
Measurements with errors are not used at all.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from uproxy.bench.figures import duration, number, proxy_cpu_us_per_op, times
from uproxy.bench.results import DIRECT, Interval, Measurement, Results
from uproxy.bench.titles import is_spoilt, understood
from uproxy.bench.workloads import Load

_LEADERS_NAMED = 3


class PathVerdict(NamedTuple):
    """What one path costs."""

    path: str
    says: str
    """Goes on after the path's name: `adds 121 µs to ...`. Empty when nothing can be said."""
    caveat: str
    """Why to doubt it; empty when there is no reason."""


class Verdict(NamedTuple):
    """The whole of it."""

    paths: tuple[PathVerdict, ...]
    ranking: tuple[str, ...]
    """Which path is ahead, one line for each question that the run can answer."""
    basis: tuple[str, ...]
    """The workloads that all this was concluded from."""


class Answers(NamedTuple):
    """Which workload answers which question: its measurements by path, but for those that errors have
    spoilt; empty where none does."""

    waiting: dict[str, Measurement]
    """Where it is not queueing."""
    exchanges: dict[str, Measurement]
    connections: dict[str, Measurement]
    bulk: dict[str, Measurement]


class _Question(NamedTuple):
    best: str
    """How the answer begins."""
    measured: dict[str, Measurement]
    """One workload, by path."""
    figure: Callable[[Measurement], Interval | None]
    tell: Callable[[Measurement], str | None]
    smaller_wins: bool = False


def verdict(results: Results) -> Verdict:
    """Judge every path that was compared with direct."""
    questions = _questions(results.measurements)
    paths = dict.fromkeys(m.path for m in results.measurements if m.path != DIRECT)
    judged = (_path_verdict(path, questions, results.measurements) for path in paths)
    ranking = (_ranking(question) for question in questions)
    basis = dict.fromkeys(m.workload for question in questions for m in question.measured.values())
    return Verdict(
        tuple(one for one in judged if one.says or one.caveat),
        tuple(line for line in ranking if line),
        tuple(basis),
    )


def answers(measurements: Sequence[Measurement]) -> Answers:
    """Choose among what was measured."""
    return Answers(
        waiting=_first(measurements, _is_waiting) or _first(measurements, _is_exchange, fewest=True),
        exchanges=_first(measurements, _is_exchange),
        connections=_first(measurements, lambda load: load.kind == "crr" and not load.paced),
        bulk=_first(measurements, lambda load: load.is_stream),
    )


def _questions(measurements: Sequence[Measurement]) -> list[_Question]:
    """Waiting where it is not queueing, then three ways to be busy."""
    waiting, exchanges, connections, bulk = answers(measurements)
    return [
        _Question(
            "Least added latency", waiting, lambda m: m.p50_us_over_direct, _latency, smaller_wins=True
        ),
        _Question("Most requests per second", exchanges, _speed, lambda m: _share(m, "the requests")),
        _Question(
            "Most new connections per second", connections, _speed, lambda m: _share(m, "the new connections")
        ),
        _Question("Most bytes per second", bulk, _speed, lambda m: _share(m, "the bytes")),
    ]


def _is_waiting(load: Load) -> bool:
    return load.kind == "rr" and load.paced


def _is_exchange(load: Load) -> bool:
    return load.kind == "rr" and not load.paced


def _first(
    measurements: Sequence[Measurement], wanted: Callable[[Load], bool], *, fewest: bool = False
) -> dict[str, Measurement]:
    """The first workload of a kind, or the one of fewest connections; empty when none was measured."""
    loads = [load for m in measurements if isinstance(load := understood(m.workload), Load) and wanted(load)]
    if not loads:
        return {}
    chosen = min(loads, key=lambda load: load.connections) if fewest else loads[0]
    return {m.path: m for m in measurements if m.workload == chosen.name and not is_spoilt(m)}


def _path_verdict(
    path: str, questions: Sequence[_Question], measurements: Sequence[Measurement]
) -> PathVerdict:
    latency, *shares = ((q.tell(q.measured[path]) if path in q.measured else None) for q in questions)
    handled = [share for share in shares if share]
    says = [
        *([latency] if latency else []),
        *([f"handles {_listed(handled)} that direct does"] if handled else []),
    ]
    used = [q.measured[path] for q in questions if path in q.measured]
    doubted = dict.fromkeys(m.workload for m in used if m.warnings)
    failed = dict.fromkeys(m.workload for m in measurements if m.path == path and is_spoilt(m))
    caveats = [f"Not judged because of errors: {_listed(failed)}."] if failed else []
    caveats += [f"Doubtful, see the warnings: {_listed(doubted)}."] if doubted else []
    return PathVerdict(path, "; ".join(says), " ".join(caveats))


def _latency(m: Measurement) -> str | None:
    added = m.p50_us_over_direct
    if added is None:
        return None
    if added.low > 0:
        return f"adds {duration(added.median)} to a typical request"
    if added.high < 0:
        return f"takes {duration(-added.median)} off a typical request"
    return f"adds no latency that this run could tell from none, {duration(added.high)} at most"


def _share(m: Measurement, what: str) -> str | None:
    ratio = m.ops_ratio_to_direct
    if ratio is None:
        return None
    notes = _own_cpu(m)
    if ratio.low <= 1 <= ratio.high:
        notes.insert(0, f"{times(ratio.low)[:-1]} to {times(ratio.high)}: no difference shown")
    return f"{times(ratio.median)} {what}" + (f" ({'; '.join(notes)})" if notes else "")


def _own_cpu(m: Measurement) -> list[str]:
    """What the proxy itself spends."""
    if m.cpu_s_per_gb is not None:
        return [f"{number(m.cpu_s_per_gb)} s of CPU a GB"]
    spent_us = proxy_cpu_us_per_op(m)
    is_counted = spent_us is not None and m.cpu_us_per_op is not None
    return [f"{duration(spent_us)} of CPU each"] if is_counted and spent_us else []


def _speed(m: Measurement) -> Interval | None:
    return m.ops_ratio_to_direct


def _ranking(question: _Question) -> str | None:
    """The path ahead of all others, and the proxy ahead of all proxies."""
    proxies = {path: m for path, m in question.measured.items() if proxy_cpu_us_per_op(m) is not None}
    everyone, of_proxies = _ahead(question, question.measured), _ahead(question, proxies)
    if everyone is None:
        return None
    if of_proxies is None or everyone == of_proxies:
        return f"{question.best}: {everyone}."
    return f"{question.best}: {everyone}; of the proxies, {of_proxies}."


def _ahead(question: _Question, candidates: dict[str, Measurement]) -> str | None:
    """The best of several; ties are called ties, and long ones are no news."""
    figures = {path: figure for path, m in candidates.items() if (figure := question.figure(m))}
    if len(figures) < 2:
        return None
    if question.smaller_wins:
        best = min(figures.values(), key=lambda figure: figure.median)
        leaders = [path for path, figure in figures.items() if figure.low <= best.high]
    else:
        best = max(figures.values(), key=lambda figure: figure.median)
        leaders = [path for path, figure in figures.items() if figure.high >= best.low]
    if len(leaders) > _LEADERS_NAMED:
        return "no clear leader"
    return leaders[0] if len(leaders) == 1 else f"{_listed(leaders)}, too close to tell apart"


def _listed(names: Iterable[str]) -> str:
    *rest, last = names
    return f"{', '.join(rest)} and {last}" if rest else last
