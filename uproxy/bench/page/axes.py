"""From figures to places in a chart: linear and logarithmic scales, and where their ticks are."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

_STEPS = (1, 2, 5)


@dataclass(frozen=True, slots=True)
class Linear:
    """`low` to `high` figures on `start` to `end` pixels."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """The place of a figure; beyond the ends, the end."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Round figures, `about` so many of them."""
        step = _round_up((self.high - self.low) / about)
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


@dataclass(frozen=True, slots=True)
class Logarithmic:
    """As Linear, for figures above 0 whose ratios matter."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """The place of a figure; beyond the ends, the end."""
        return Linear(math.log(self.low), math.log(self.high), self.start, self.end).at(
            math.log(max(value, self.low))
        )

    def ticks(self, most: int = 8) -> list[float]:
        """1, 2 and 5 of every decade; only 1 when those are too many, and evenly when too few."""
        found = list(self._between(_STEPS))
        if len(found) < 2:
            return Linear(self.low, self.high, self.start, self.end).ticks(4)
        return found if len(found) <= most else list(self._between((1,)))

    def _between(self, steps: tuple[int, ...]) -> Iterator[float]:
        for power in range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1):
            for step in steps:
                tick = step * 10.0**power
                if self.low * 0.999 <= tick <= self.high * 1.001:
                    yield tick


def _round_up(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (*_STEPS, 10) if step * power >= value * 0.999)


def apart(places: list[float], gap: float, low: float, high: float) -> list[float]:
    """Move `places` so that neighbours are `gap` apart and all between `low` and `high`, order kept.

    When there is no room for all, they share what there is.
    """
    gap = min(gap, (high - low) / max(1, len(places) - 1))
    order = sorted(range(len(places)), key=places.__getitem__)
    moved = list(places)
    floor = low
    for index in order:
        moved[index] = max(moved[index], floor)
        floor = moved[index] + gap
    ceiling = high
    for index in reversed(order):
        moved[index] = min(moved[index], ceiling)
        ceiling = moved[index] - gap
    return moved
