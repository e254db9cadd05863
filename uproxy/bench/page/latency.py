"""The latency chart: percentiles on an axis that gives every further nine the same room.

HdrHistogram's picture (log of 1/(1-p)), with a logarithmic wait, so that a path at 100 µs and one
at 10 ms can be read in the same chart. Each line has its path's name at its end.
"""

import math
from dataclasses import dataclass

from uproxy.bench.figures import duration, round_duration
from uproxy.bench.latency import Latencies
from uproxy.bench.page.axes import Linear, Logarithmic, apart
from uproxy.bench.page.markup import Markup, element
from uproxy.bench.page.palette import Look
from uproxy.bench.results import Measurement

_WIDTH = 520
_LEFT, _RIGHT, _TOP, _FOOT = 54, 338, 12, 40
_LABEL_GAP = 14
_LABEL_LETTERS = 22
_MARKED = (50.0, 90.0, 99.0, 99.9, 99.99, 99.999)
_WITNESSES = 10
"""A line ends where fewer waits than this are beyond: further out it would be chance."""


@dataclass(frozen=True, slots=True)
class Curve:
    """The waits of one path."""

    path: str
    look: Look
    waits: Latencies

    @property
    def end(self) -> float:
        """Nines that there is evidence for."""
        return max(nines(50.0), math.log10(max(1.0, self.waits.count / _WITNESSES)))

    def points(self) -> list[tuple[float, float]]:
        """(nines, wait in µs) up to the end, which is one of them."""
        found = [(nines(level), wait_ns / 1e3) for level, wait_ns in self.waits.curve()]
        last = self.waits.percentile_ns(100 * (1 - 10**-self.end)) / 1e3
        return [*(point for point in found if point[0] < self.end), (self.end, last)]

    def describe(self) -> str:
        """A line of figures, for the tooltip."""
        known = [level for level in _MARKED if nines(level) <= self.end + 1e-9]
        figures = [f"p{level:g} {duration(self.waits.percentile_ns(level) / 1e3)}" for level in known]
        return f"{self.path}: {', '.join(figures)}, max {duration(self.waits.max_ns / 1e3)}"


def nines(level: float) -> float:
    """Place of a percentile on the axis: 90 is 1, 99 is 2, 99.9 is 3."""
    return -math.log10(1 - level / 100)


def curves_of(measurements: list[Measurement], looks: dict[str, Look]) -> list[Curve]:
    """Decode what there is to draw; paths without any wait are left out."""
    decoded = (
        Curve(m.path, looks[m.path], Latencies.decode(m.histogram)) for m in measurements if m.histogram
    )
    return [curve for curve in decoded if curve.waits.count]


def latency_chart(curves: list[Curve], height: int) -> Markup:
    """Draw one line for each path, in a picture of 520 pixels by `height`."""
    lines = [(curve, curve.points()) for curve in curves]
    waits = [wait for _, points in lines for _, wait in points if wait > 0]
    across = Linear(0, max(2.0, *(curve.end for curve in curves)), _LEFT, _RIGHT)
    up = Logarithmic(min(waits) * 0.9, max(waits) * 1.1, height - _FOOT, _TOP)
    drawn = [_line(curve, points, across, up) for curve, points in lines]
    ends = [(across.at(points[-1][0]), up.at(points[-1][1])) for _, points in lines]
    return element(
        "svg",
        _grid(across, up),
        *drawn,
        _labels(curves, ends, up.start),
        viewBox=f"0 0 {_WIDTH} {height}",
        role="img",
        aria_label="Latency by percentile. " + "; ".join(curve.describe() for curve in curves),
    )


def _grid(across: Linear, up: Logarithmic) -> Markup:
    parts: list[Markup] = []
    for wait in up.ticks():
        y = up.at(wait)
        parts.append(element("line", class_="grid", x1=_LEFT, x2=_RIGHT, y1=y, y2=y))
        parts.append(
            element("text", round_duration(wait), class_="tick", x=_LEFT - 6, y=y + 4, text_anchor="end")
        )
    for level in _MARKED:
        if nines(level) <= across.high + 0.01:
            x = across.at(nines(level))
            parts.append(element("line", class_="grid", x1=x, x2=x, y1=_TOP, y2=up.start))
            parts.append(
                element("text", f"{level:g}%", class_="tick", x=x, y=up.start + 17, text_anchor="middle")
            )
    middle = (_LEFT + _RIGHT) / 2
    parts.append(
        element(
            "text", "of waits are no longer", class_="axis", x=middle, y=up.start + 36, text_anchor="middle"
        )
    )
    return element("g", *parts)


def _line(curve: Curve, points: list[tuple[float, float]], across: Linear, up: Logarithmic) -> Markup:
    places = [(across.at(nine), up.at(wait)) for nine, wait in points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    return element(
        "g",
        element("title", curve.describe()),
        element("path", d=path, class_="curve", stroke_dasharray=curve.look.dash or None),
        *_dots(curve, across, up),
        class_=f"series {curve.look.css_class}",
        data_path=curve.path,
    )


def _dots(curve: Curve, across: Linear, up: Logarithmic) -> list[Markup]:
    """One at each percentile that the axis names: something to point at."""
    dots = []
    for level in _MARKED:
        if nines(level) <= curve.end + 1e-9:
            wait_us = curve.waits.percentile_ns(level) / 1e3
            title = element("title", f"{curve.path} p{level:g}: {duration(wait_us)}")
            x, y = across.at(nines(level)), up.at(wait_us)
            dot = element("circle", class_="dot", cx=x, cy=y, r=2.6)
            near = element("circle", class_="near", cx=x, cy=y, r=9)
            dots.append(element("g", title, near, dot))
    return dots


def _labels(curves: list[Curve], ends: list[tuple[float, float]], bottom: float) -> Markup:
    """Names at the right, moved apart, each tied to the end of its line."""
    places = apart([y for _, y in ends], _LABEL_GAP, _TOP, bottom)
    parts = []
    for curve, (x, y), place in zip(curves, ends, places, strict=True):
        name = curve.path if len(curve.path) <= _LABEL_LETTERS else f"{curve.path[: _LABEL_LETTERS - 1]}…"
        tie = f"M{x + 3:.1f} {y:.1f}L{_RIGHT + 2} {y:.1f}L{_RIGHT + 9} {place:.1f}"
        parts.append(
            element(
                "g",
                element("title", curve.describe()),
                element("path", d=tie, class_="tie"),
                element("text", name, class_="name", x=_RIGHT + 12, y=place + 4),
                class_=f"series {curve.look.css_class}",
                data_path=curve.path,
            )
        )
    return element("g", *parts)
