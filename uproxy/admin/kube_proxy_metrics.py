"""kube-proxy's own metrics, as far as they have a meaning here: its dashboards and alerts go on.

Owns names, labels, types and buckets, which are kube-proxy's to the letter; the numbers come
from the reconcile loop. One programming serves both IP families, so that both have the same
where kube-proxy would tell two proxiers apart.
Source: kube-proxy 1.36, pkg/proxy/metrics/metrics.go.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from uproxy.kit.histogram import Histogram
from uproxy.model.frontend import DesiredServicePort, FrontendKind, Treatment
from uproxy.model.names import Family
from uproxy.reconcile.loop import ReconcileLoop
from uproxy.reconcile.record import FAMILIES, Arrivals

_FAMILY_NAMES: Mapping[Family, str] = {4: "IPv4", 6: "IPv6"}
_POLICIES = ("internal", "external")
_WITHOUT_LOCAL = frozenset((Treatment.DROP, Treatment.INSIDE))
_PREFIX = "kubeproxy_"
_RULES = f"{_PREFIX}sync_proxy_rules_"


class Outcomes:
    """What became of things that are only counted."""

    def __init__(self) -> None:
        self.healthz: Counter[int] = Counter()
        """How health checks were answered, by HTTP status."""
        self.livez: Counter[int] = Counter()
        self.events: Counter[str] = Counter()
        """Of Events for the cluster: posted, failed, dropped."""


class KubeProxyCollector(Collector):
    """The metrics `kubeproxy_*`."""

    def __init__(self, loop: ReconcileLoop, outcomes: Outcomes) -> None:
        self._loop = loop
        self._outcomes = outcomes

    def collect(self) -> Iterator[Metric]:
        """Read the counts."""
        yield from self._syncs()
        record = self._loop.record
        yield from _changes("endpoint", "Endpoint", record.endpoints)
        yield from _changes("service", "Service", record.services)
        yield self._without_local_endpoints()
        for page, codes in (("healthz", self._outcomes.healthz), ("livez", self._outcomes.livez)):
            yield _codes(page, codes)

    def _syncs(self) -> Iterator[Metric]:
        record = self._loop.record
        yield _histogram(
            f"{_RULES}duration_seconds",
            "SyncProxyRules latency in seconds",
            dict.fromkeys(FAMILIES, self._loop.duration),
        )
        yield _moment("last", "proxy rules were successfully synced", record.programmed_at_s)
        yield _moment("last_queued", "a sync of proxy rules was queued", record.queued_at_s)
        yield _histogram(
            f"{_PREFIX}network_programming_duration_seconds",
            "In Cluster Network Programming Latency in seconds",
            record.network_latency,
        )

    def _without_local_endpoints(self) -> Metric:
        counts = without_local_endpoints(self._loop.store.desired.values())
        family = GaugeMetricFamily(
            f"{_RULES}no_local_endpoints_total",
            "Number of services with a Local traffic policy and no endpoints",
            labels=["ip_family", "traffic_policy"],
        )
        for ip_family, name in _FAMILY_NAMES.items():
            for policy in _POLICIES:
                family.add_metric([name, policy], counts[ip_family, policy])
        return family


def without_local_endpoints(ports: Iterable[DesiredServicePort]) -> Counter[tuple[Family, str]]:
    """Service ports that have endpoints, but none on this node where a Local policy asks for one."""
    counts: Counter[tuple[Family, str]] = Counter()
    for desired in ports:
        if desired.local:
            counts.update(
                {
                    (frontend.family, _POLICIES[frontend.kind is not FrontendKind.CLUSTER_IP])
                    for frontend in desired.frontends
                    if desired.treatment(frontend) in _WITHOUT_LOCAL
                }
            )
    return counts


def _changes(kind: str, word: str, arrivals: Arrivals) -> Iterator[Metric]:
    name = f"{_RULES}{kind}_changes"
    yield GaugeMetricFamily(f"{name}_pending", f"Pending proxy rules {word} changes", arrivals.pending)
    yield CounterMetricFamily(name, f"Cumulative proxy rules {word} changes", arrivals.total)


def _moment(name: str, what: str, at_s: float) -> Metric:
    family = GaugeMetricFamily(
        f"{_RULES}{name}_timestamp_seconds", f"The last time {what}", labels=["ip_family"]
    )
    for ip_family in FAMILIES:
        family.add_metric([_FAMILY_NAMES[ip_family]], at_s)
    return family


def _codes(page: str, codes: Counter[int]) -> Metric:
    family = CounterMetricFamily(
        f"{_PREFIX}proxy_{page}", f"Cumulative proxy {page} HTTP status", labels=["code"]
    )
    for code, count in sorted(codes.items()):
        family.add_metric([str(code)], count)
    return family


def _histogram(name: str, meaning: str, histograms: Mapping[Family, Histogram]) -> Metric:
    family = HistogramMetricFamily(name, meaning, labels=["ip_family"])
    for ip_family, histogram in histograms.items():
        # As Go writes numbers: 1 and not 1.0, which would be another series.
        bounds = [*(f"{bound:g}" for bound in histogram.bounds_s), "+Inf"]
        buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
        family.add_metric([_FAMILY_NAMES[ip_family]], buckets, histogram.sum_s)
    return family
