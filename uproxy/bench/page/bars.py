"""Horizontal bars: rows of stacked parts with a whisker, and a text beside. Knows no measurement."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from uproxy.bench.page.axes import Linear
from uproxy.bench.page.markup import Markup, element
from uproxy.bench.page.palette import Look
from uproxy.bench.results import Interval

_WIDTH = 520
_NAME, _LEFT, _RIGHT, _ASIDE = 166, 172, 398, 450
_ROW, _BAR, _TOP, _FOOT = 24, 14, 6, 22
_NAME_LETTERS = 22


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a bar."""

    figure: float
    css_class: str
    title: str


@dataclass(frozen=True, slots=True)
class Row:
    """A bar of a path."""

    path: str
    name: str
    """Left of the bar: the path's, where there is one bar for each."""
    look: Look
    parts: tuple[Part, ...]
    text: str
    """Right of the bars."""
    aside: str = ""
    """Right of that, softer."""
    whisker: Interval | None = None


def bar_chart(rows: list[Row], what: str, tick: Callable[[float], str], mark: float | None = None) -> Markup:
    """Draw the rows; `tick` writes a round figure, `mark` is a figure to compare with."""
    across = Linear(0, _reach(rows, mark), _LEFT, _RIGHT)
    return element(
        "svg",
        _grid(across, len(rows), tick),
        *(_row(row, _TOP + _ROW * index, across) for index, row in enumerate(rows)),
        _mark(across.at(mark), len(rows)) if mark else "",
        viewBox=f"0 0 {_WIDTH} {bar_chart_height(len(rows))}",
        role="img",
        aria_label=f"{what}. " + "; ".join(f"{row.name} {row.text} {row.aside}".rstrip() for row in rows),
    )


def bar_chart_height(rows: int) -> int:
    """Room that a chart takes, in its own pixels: all charts have the same width."""
    return _TOP + _ROW * rows + _FOOT


def _reach(rows: list[Row], mark: float | None) -> float:
    """As far as bars and whiskers go; but a whisker of few rounds, which can be huge, is cut."""
    bars = max([sum(part.figure for part in row.parts) for row in rows] + [mark or 0.0])
    whiskers = max((row.whisker.high for row in rows if row.whisker), default=0.0)
    return max(bars, min(whiskers, bars * 1.5)) * 1.04 or 1.0


def _grid(across: Linear, rows: int, tick: Callable[[float], str]) -> Markup:
    bottom = _TOP + _ROW * rows
    parts: list[Markup] = []
    for figure in across.ticks(4):
        x = across.at(figure)
        parts.append(element("line", class_="grid", x1=x, x2=x, y1=_TOP, y2=bottom))
        text = "0" if figure == 0 else tick(figure)
        parts.append(element("text", text, class_="tick", x=x, y=bottom + 15, text_anchor="middle"))
    return element("g", *parts)


def _mark(x: float, rows: int) -> Markup:
    return element("line", class_="mark", x1=x, x2=x, y1=_TOP, y2=_TOP + _ROW * rows)


def _row(row: Row, top: float, across: Linear) -> Markup:
    middle = top + _ROW / 2
    name = row.name if len(row.name) <= _NAME_LETTERS else f"{row.name[: _NAME_LETTERS - 1]}…"
    parts: list[Markup] = []
    if name != row.name:
        parts.append(element("title", row.name))
    parts.append(element("text", name, class_="name", x=_NAME, y=middle + 4, text_anchor="end"))
    start = 0.0
    for part in row.parts:
        x, end = across.at(start), across.at(start + part.figure)
        bar = element(
            "rect", class_=f"bar {part.css_class}", x=x, y=middle - _BAR / 2, width=end - x, height=_BAR
        )
        parts.append(element("g", element("title", part.title), bar))
        if part.css_class.endswith("kernel"):
            parts.append(_hatch(x, end, middle))
        start += part.figure
    if row.whisker:
        parts.append(_whisker(row.whisker, middle, across))
    for text, x, css_class in ((row.text, _RIGHT + 8, "figure"), (row.aside, _ASIDE, "figure aside")):
        if text:
            parts.append(element("text", text, class_=css_class, x=x, y=middle + 4))
    return element("g", *parts, class_=f"series {row.look.css_class}", data_path=row.path)


def _hatch(left: float, right: float, middle: float) -> Markup:
    """Diagonals over a bar, cut at its ends: an SVG pattern would have to be referred to by a URL."""
    bottom, strokes = middle + _BAR / 2, []
    for foot in range(math.floor(left) - _BAR, math.ceil(right), 5):
        start, end = max(foot, left), min(foot + _BAR, right)
        if end > start:
            strokes.append(
                f"M{start:.1f} {bottom - (start - foot):.1f}L{end:.1f} {bottom - (end - foot):.1f}"
            )
    return element("path", class_="hatch", d="".join(strokes) or None)


def _whisker(interval: Interval, y: float, across: Linear) -> Markup:
    low, high = across.at(interval.low), across.at(interval.high)
    ends = f"M{low:.1f} {y - 4:.1f}v8M{low:.1f} {y:.1f}H{high:.1f}"
    # An interval that leaves the chart has no cap there.
    cap = (
        f"M{high:.1f} {y - 4:.1f}v8" if math.isfinite(interval.high) and interval.high <= across.high else ""
    )
    return element("path", class_="whisker", d=ends + cap)
