"""How the proxy stands with its API server: metrics, and a word in the health answers.

An API server that is away is no reason to be unhealthy: traffic goes on with what is known, and to
say 503 would have load balancers leave every node of the cluster at once.
"""

from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from uproxy.sources.kubernetes.status import ResourceStatus

Followed = Callable[[], Sequence[ResourceStatus]]
"""How each resource stands now; nothing without a cluster."""

_COUNTS = {
    "lists": "Complete lists: the first, and each relist.",
    "events": "Objects that came or went, in lists and watches.",
    "failures": "Requests and watches that came to nothing, or ended too soon.",
    "denied": "Those of them that were answered with 401 or 403.",
}
_GAUGES = {
    "objects": "Objects known now.",
    "skipped": "Objects that are left out now, because they cannot be understood.",
}


def disconnected_s(followed: Sequence[ResourceStatus], now_s: float) -> float:
    """For how long a resource has not been followed, the longest of them; 0 while all are."""
    since = [its.disconnected_since_s for its in followed if its.disconnected_since_s is not None]
    return now_s - min(since) if since else 0.0


class ClusterCollector(Collector):
    """Metrics of the Kubernetes source, by resource."""

    def __init__(self, followed: Followed, now: Callable[[], float]) -> None:
        self._followed = followed
        self._now = now

    def collect(self) -> Iterator[Metric]:
        """Read the counts."""
        followed = self._followed()
        if not followed:
            return
        away = GaugeMetricFamily(
            "uproxy_kubernetes_disconnected_seconds",
            "For how long the API server has not been followed; 0 while it is.",
            labels=["resource"],
        )
        for its in followed:
            away.add_metric([its.resource], disconnected_s([its], self._now()))
        yield away
        connected = GaugeMetricFamily(
            "uproxy_kubernetes_connected", "Whether the API server is followed.", labels=["resource"]
        )
        for its in followed:
            connected.add_metric([its.resource], its.disconnected_since_s is None)
        yield connected
        for name, help_ in _COUNTS.items():
            counter = CounterMetricFamily(f"uproxy_kubernetes_{name}", help_, labels=["resource"])
            for its in followed:
                counter.add_metric([its.resource], getattr(its, name))
            yield counter
        for name, help_ in _GAUGES.items():
            gauge = GaugeMetricFamily(f"uproxy_kubernetes_{name}", help_, labels=["resource"])
            for its in followed:
                gauge.add_metric([its.resource], getattr(its, name))
            yield gauge
