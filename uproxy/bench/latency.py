"""Latencies in nanoseconds, in an HdrHistogram: 1 ns to an hour, three significant digits.

Owns recording, merging, percentiles and the text forms. A thin wrapper: the package knows the
arithmetic, this module its units. Refuses to say what was timed, or from when.
"""

import math
from array import array
from collections.abc import Iterator
from typing import Self

from hdrh.histogram import HdrHistogram

from uproxy.bench.results import Percentiles

LOWEST_NS = 1
HIGHEST_NS = 3_600_000_000_000
"""Longer waits are recorded as an hour."""
DIGITS = 3
"""A value is kept to 0.1 % of itself; the native generator counts in the same buckets."""

_REPORTED = (50.0, 90.0, 99.0, 99.9, 99.99)
_NS_PER_US = 1_000


class Latencies:
    """A histogram of waits. Percentiles are the upper end of their bucket, as HdrHistogram has it."""

    def __init__(self) -> None:
        self._hdr = HdrHistogram(LOWEST_NS, HIGHEST_NS, DIGITS)

    @classmethod
    def decode(cls, text: str) -> Self:
        """Read what `encode` wrote, or another program's HdrHistogram V2 of the same precision.

        Raises ValueError when it is none.
        """
        made = cls()
        try:
            made._hdr.decode_and_add(text)
        except Exception as error:  # the package lets zlib's, base64's and its own go by
            raise ValueError(f"not an HdrHistogram: {error}") from error
        return made

    @classmethod
    def from_counts(cls, counts: bytes, longest_ns: int) -> Self:
        """Take over the native generator's buckets: HdrHistogram's own layout, 64 bits each, native order."""
        made = cls()
        for index, count in enumerate(array("Q", counts)):
            if count:
                made._hdr.record_value(made._hdr.get_value_from_index(index), count)
        if made.count:
            made._hdr.max_value = longest_ns
        return made

    def record(self, wait_ns: float, count: int = 1) -> None:
        """Add `count` waits of the same length."""
        self._hdr.record_value(min(max(int(wait_ns), 0), HIGHEST_NS), count)

    def merge(self, other: "Latencies") -> None:
        """Add everything that `other` holds."""
        longest = max(self.max_ns, other.max_ns)
        self._hdr.add(other._hdr)
        self._hdr.max_value = longest  # the package rounds it up to its bucket's end

    @property
    def count(self) -> int:
        """How many waits were recorded."""
        return int(self._hdr.total_count)

    @property
    def max_ns(self) -> int:
        """The longest; after `decode` to 0.1 %. 0 when empty."""
        return int(self._hdr.max_value)

    def percentile_ns(self, percentile: float) -> int:
        """Return what `percentile` percent (0 to 100) of the waits do not exceed; 0 when empty."""
        return min(int(self._hdr.get_value_at_percentile(percentile)), self.max_ns)

    def percentiles(self) -> Percentiles | None:
        """Return the figures that reports print, in microseconds; None when empty."""
        if not self.count:
            return None
        found = self._hdr.get_percentile_to_value_dict(_REPORTED)
        p50, p90, p99, p99_9, p99_99 = (min(found[level], self.max_ns) / _NS_PER_US for level in _REPORTED)
        return Percentiles(p50, p90, p99, p99_9, p99_99, self.max_ns / _NS_PER_US)

    def curve(self, steps_per_halving: int = 5) -> list[tuple[float, int]]:
        """Return (percentile, wait in ns) for a plot whose axis is logarithmic in what is left to 100 %.

        So many points while that is halved: at 5 some 100 points to p99.9999. 100 itself is left out.
        """
        return [(level, wait_ns) for level, wait_ns, _ in self._steps(steps_per_halving)]

    def _steps(self, per_halving: int) -> Iterator[tuple[float, int, int]]:
        """(percentile, wait, waits up to it), as the package's iterator but in one pass over the buckets."""
        level = 0.0
        for wait_ns, so_far in self._recorded():
            while level <= 100 * so_far / self.count < 100:
                yield level, wait_ns, so_far
                level += (100 - level) / (2 * per_halving)

    def _recorded(self) -> Iterator[tuple[int, int]]:
        """(upper end, waits up to it) of every bucket that is not empty."""
        so_far = 0
        for index, count in enumerate(self._hdr.counts):
            if count:
                so_far += count
                yield self._hdr.get_highest_equivalent_value(self._hdr.get_value_from_index(index)), so_far

    def encode(self) -> str:
        """Write it as HdrHistogram V2, compressed, base64."""
        return bytes(self._hdr.encode()).decode()

    def hgrm(self) -> str:
        """Return the text of an .hgrm file, in microseconds, as HdrHistogram's plotter reads it.

        Not the package's own: that one prints the deviation in nanoseconds, and takes 0.3 s.
        """
        rows = [
            f"{wait_ns / _NS_PER_US:12.3f} {level / 100:2.12f} {so_far:10d} {100 / (100 - level):14.2f}"
            for level, wait_ns, so_far in self._steps(5)
        ]
        mean_us, deviation_us = self._mean_and_deviation_us()
        return "\n".join(
            [
                f"{'Value':>12} {'Percentile':>14} {'TotalCount':>10} {'1/(1-Percentile)':>14}",
                "",
                *rows,
                f"{self.max_ns / _NS_PER_US:12.3f} {1:2.12f} {self.count:10d}",
                f"#[Mean    = {mean_us:12.3f}, StdDeviation   = {deviation_us:12.3f}]",
                f"#[Max     = {self.max_ns / _NS_PER_US:12.3f}, TotalCount     = {self.count:12d}]",
                "",
            ]
        )

    def _mean_and_deviation_us(self) -> tuple[float, float]:
        """Of the buckets' upper ends, which are within 0.1 % of what was recorded."""
        before, total, squares = 0, 0.0, 0.0
        for wait_ns, so_far in self._recorded():
            count, wait_us = so_far - before, wait_ns / _NS_PER_US
            total, squares, before = total + count * wait_us, squares + count * wait_us**2, so_far
        mean = total / max(1, self.count)
        return mean, math.sqrt(max(0.0, squares / max(1, self.count) - mean**2))
