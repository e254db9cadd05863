"""A histogram of durations: plain integers, cheap to record, read when somebody asks."""

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """Counts per bucket; a bucket's bound, in seconds, belongs to it (Prometheus' `le`)."""

    __slots__ = ("bounds_s", "counts", "sum_s")

    def __init__(self, bounds_s: Sequence[float]) -> None:
        self.bounds_s = bounds_s
        self.counts = [0] * (len(bounds_s) + 1)
        """One for each bound, and one for everything beyond the last."""
        self.sum_s = 0.0

    def record(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(self.bounds_s, seconds)] += 1
        self.sum_s += seconds

    def add(self, counts: Sequence[int], sum_s: float) -> None:
        """Add durations that somebody else has sorted into the same buckets."""
        for bucket, count in enumerate(counts):
            self.counts[bucket] += count
        self.sum_s += sum_s
