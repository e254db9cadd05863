"""What cluster DNS counts, as metrics: by CoreDNS's names where it has them, so that its dashboards work."""

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from uproxy.dns.stats import DnsStats
from uproxy.dns.wire import Rcode, Type
from uproxy.kit.histogram import Histogram

_PREFIX = "coredns"
_IANA_FAMILIES = {4: "1", 6: "2"}
_TYPES = {kind.value: kind.name for kind in Type}


class DnsCollector(Collector):
    """The metrics of one DNS server."""

    def __init__(self, stats: DnsStats) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """Read the counts."""
        stats = self._stats
        yield self._requests()
        yield _counter("dns_responses", "Answers, by rcode.", "rcode", _by_rcode(stats.responses))
        yield _histogram_of(
            f"{_PREFIX}_dns_request_duration_seconds", "From a query to its answer.", stats.duration
        )
        yield _counter("cache_hits", "Outside names found in the cache.", "type", stats.cache_hits)
        yield CounterMetricFamily(
            f"{_PREFIX}_cache_misses", "Outside names not found there.", stats.cache_misses
        )
        yield CounterMetricFamily(
            f"{_PREFIX}_forward_requests", "Questions sent upstream.", stats.upstream_requests
        )
        yield CounterMetricFamily(
            f"{_PREFIX}_forward_max_concurrent_rejects",
            "Questions not sent, because too many are under way.",
            stats.upstream_refused,
        )
        yield CounterMetricFamily(
            f"{_PREFIX}_autopath_success", "Outside names found at the first query.", stats.autopath_hits
        )
        yield CounterMetricFamily(
            "uproxy_dns_upstream_failures", "Questions without an answer in time.", stats.upstream_failures
        )
        yield self._turned_away()
        yield _histogram_of(
            "uproxy_dns_change_duration_seconds", "Making the names of a batch of changes.", stats.changes
        )
        yield CounterMetricFamily(
            "uproxy_dns_loops", "ExternalNames in circles, and queries that came back.", stats.loops
        )

    def _turned_away(self) -> Metric:
        family = CounterMetricFamily(
            "uproxy_dns_dropped",
            "Packets that got no answer, or none but to go away or to come by TCP, by reason.",
            labels=["reason"],
        )
        for reason, count in sorted(self._stats.dropped.items()):
            family.add_metric([reason], count)
        return family

    def _requests(self) -> Metric:
        family = CounterMetricFamily(
            f"{_PREFIX}_dns_requests",
            "Queries, by transport, family and type.",
            labels=["proto", "family", "type"],
        )
        for (proto, version), counts in self._stats.requests.items():
            named: dict[str, int] = {}
            for number, count in counts.items():
                name = _TYPES.get(number, "other")
                named[name] = named.get(name, 0) + count
            for name, count in named.items():
                family.add_metric([proto, _IANA_FAMILIES[version], name], count)
        return family


def _counter(name: str, meaning: str, label: str, counts: dict[str, int]) -> Metric:
    family = CounterMetricFamily(f"{_PREFIX}_{name}", meaning, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family


def _by_rcode(responses: list[int]) -> dict[str, int]:
    return {Rcode(number).name: count for number, count in enumerate(responses) if count}


def _histogram_of(name: str, meaning: str, histogram: Histogram) -> Metric:
    bounds = [*map(repr, histogram.bounds_s), "+Inf"]
    buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
    return HistogramMetricFamily(name, meaning, buckets, histogram.sum_s)
