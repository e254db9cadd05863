"""Prometheus' text format 0.0.4, written directly. Pure; knows nothing of proxies.

For the families that have a series for every Service. prometheus_client makes an object of
every sample: 9 us each, and 5,000 Services have 140,000. Families of a few samples are left
to it.
Format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate

from uproxy.kit.histogram import Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def label_text(labels: Mapping[str, str]) -> str:
    """`namespace="default",service="web"`: what stands between the braces."""
    return ",".join([f'{name}="{_escape(value)}"' for name, value in labels.items()])


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


class Family:
    """The series of one metric. `kind` is `counter` or `gauge`; `meaning` is one line.

    Where its series differ in one more label than all others of the page have, that is `by`.
    """

    def __init__(self, name: str, kind: str, meaning: str, by: str = "") -> None:
        self._name = name
        self._by = by
        self._lines = [_head(name, kind, meaning)]

    def add(self, labels: str, value: int) -> None:
        """Add a series."""
        self._lines.append(f"{self._name}{{{labels}}} {value}\n")

    def add_by(self, labels: str, other: str, value: int) -> None:
        """Add a series whose label `by` is `other`, which needs no escaping."""
        self._lines.append(f'{self._name}{{{labels},{self._by}="{other}"}} {value}\n')

    def text(self) -> str:
        """All of it, or nothing when there is no series."""
        return "".join(self._lines) if len(self._lines) > 1 else ""


class HistogramFamily:
    """The same for histograms, which all have the bounds `bounds_s`."""

    def __init__(self, name: str, bounds_s: Sequence[float], meaning: str) -> None:
        self._lines = [_head(name, "histogram", meaning)]
        bounds = [*map(repr, bounds_s), "+Inf"]
        buckets = [f'{name}_bucket{{\0,le="{bound}"}} %d\n' for bound in bounds]
        template = "".join((*buckets, f"{name}_sum{{\0}} %r\n", f"{name}_count{{\0}} %d\n"))
        self._around_labels = template.split("\0")

    def add(self, labels: str, histogram: Histogram) -> None:
        """Add a histogram's buckets, sum and count."""
        # All lines in one go: a histogram has as many as everything else of its Service.
        counts = tuple(accumulate(histogram.counts))
        template = labels.replace("%", "%%").join(self._around_labels)
        self._lines.append(template % (*counts, histogram.sum_s, counts[-1]))

    def text(self) -> str:
        """All of it, or nothing when there is no histogram."""
        return "".join(self._lines) if len(self._lines) > 1 else ""


def _head(name: str, kind: str, meaning: str) -> str:
    return f"# HELP {name} {meaning}\n# TYPE {name} {kind}\n"
