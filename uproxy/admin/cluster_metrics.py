"""The metrics `uproxy_kubernetes_*`: how each resource of the cluster stands with the API server.

Owns their names and meanings; the numbers are the source's own.
"""

from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from uproxy.sources.kubernetes.status import ResourceStatus

Statuses = Callable[[], Sequence[ResourceStatus]]
"""How each resource stands now; none when objects come from files."""

_PREFIX = "uproxy_kubernetes_"
Value = Callable[[ResourceStatus], float]
_GAUGES: dict[str, tuple[Value, str]] = {
    "connected": (lambda status: status.disconnected_since_s is None, "Whether the API server answers."),
    "objects": (lambda status: status.objects, "Objects known."),
    "skipped": (lambda status: status.skipped, "Objects left out, since they cannot be understood."),
}
_COUNTERS: dict[str, tuple[Value, str]] = {
    "lists": (lambda status: status.lists, "Complete lists; all but the first are relists."),
    "events": (lambda status: status.events, "Objects that came or went, in lists and watches."),
    "failures": (lambda status: status.failures, "Requests and watches that failed or ended too soon."),
    "denied": (lambda status: status.denied, "Those of the failures that were a 401 or a 403."),
}


class ClusterCollector(Collector):
    """One series of each for every resource."""

    def __init__(self, statuses: Statuses, now: Callable[[], float]) -> None:
        """`now` is the clock by which `statuses` tells times."""
        self._statuses = statuses
        self._now = now

    def collect(self) -> Iterator[Metric]:
        """Read the counts."""
        statuses = self._statuses()
        if not statuses:
            return
        yield self._disconnected(statuses)
        for name, (value, meaning) in _GAUGES.items():
            gauge = GaugeMetricFamily(_PREFIX + name, meaning, labels=["resource"])
            for status in statuses:
                gauge.add_metric([status.resource], value(status))
            yield gauge
        for name, (value, meaning) in _COUNTERS.items():
            counter = CounterMetricFamily(_PREFIX + name, meaning, labels=["resource"])
            for status in statuses:
                counter.add_metric([status.resource], value(status))
            yield counter

    def _disconnected(self, statuses: Sequence[ResourceStatus]) -> Metric:
        family = GaugeMetricFamily(
            f"{_PREFIX}disconnected_seconds",
            "For how long the API server has not answered; 0 while it does.",
            labels=["resource"],
        )
        for status in statuses:
            since_s = status.disconnected_since_s
            family.add_metric([status.resource], 0.0 if since_s is None else self._now() - since_s)
        return family


def unanswered_since_s(statuses: Sequence[ResourceStatus]) -> float | None:
    """Since when the API server has not answered for some resource; None while it does for all."""
    moments = [status.disconnected_since_s for status in statuses]
    return min((moment for moment in moments if moment is not None), default=None)
