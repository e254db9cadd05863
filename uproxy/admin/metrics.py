"""`/metrics`: everything the proxy counts, as Prometheus reads it.

Owns the metrics of the process as a whole, through prometheus_client, and putting one scrape
together. The counts themselves are plain integers elsewhere; nothing here runs between
scrapes.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from uproxy import __version__
from uproxy.admin.cluster_metrics import ClusterCollector, Followed
from uproxy.admin.dns_metrics import DnsCollector
from uproxy.admin.handoff_metrics import HandoffCollector
from uproxy.admin.kube_proxy_metrics import KubeProxyCollector, Outcomes
from uproxy.admin.pacing import slices
from uproxy.admin.port_series import PortSeries, PortText
from uproxy.admin.server_metrics import ServerCollector
from uproxy.dataplane.proxy import Dataplane
from uproxy.dns.stats import DnsStats
from uproxy.handoff.target import KernelPaths
from uproxy.kit.guests import Guests
from uproxy.kit.histogram import Histogram
from uproxy.kit.logs import lines_dropped
from uproxy.model.faults import Fault
from uproxy.picking.routes import ProgrammedPort
from uproxy.reconcile.loop import ReconcileLoop
from uproxy.state.store import Store


@dataclass(frozen=True, slots=True)
class About:
    """How this proxy runs: the labels of `uproxy_info`."""

    relay: str
    """What copies the bytes: `native` or `python`."""
    capture: str
    """How traffic comes here: `bind`, `redirect` or `tproxy`."""
    mechanism: str
    """What programs the kernel to that end: `nft`, `iptables`, `local-routes`, `lo-addresses`, `loopback`."""


class Metrics:
    """All metrics of one proxy, in a registry of its own."""

    def __init__(
        self,
        store: Store,
        dataplane: Dataplane,
        loop: ReconcileLoop,
        about: About,
        outcomes: Outcomes,
        *,
        followed: Followed = tuple,
        paths: KernelPaths | None = None,
        dns: DnsStats | None = None,
        guests: Iterable[Guests] = (),
    ) -> None:
        self._dataplane = dataplane
        self._texts: Mapping[ProgrammedPort, PortText] = {}
        self._registry = CollectorRegistry()
        self._registry.register(ProxyCollector(store, dataplane, loop, about, outcomes))
        self._registry.register(KubeProxyCollector(loop, outcomes))
        self._registry.register(ClusterCollector(followed, dataplane.context.now))
        self._registry.register(ServerCollector(guests))
        if paths is not None:
            self._registry.register(HandoffCollector(paths))
        if dns is not None:
            self._registry.register(DnsCollector(dns))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    async def scrape(self) -> bytes:
        """The present values, in text format 0.0.4."""
        self._dataplane.relay.collect()
        series = PortSeries(self._dataplane.context.now(), self._texts)
        async for some in slices(list(self._dataplane.ports.values())):
            for programmed in some:
                series.add(programmed)
        self._texts = series.texts
        families = [generate_latest(self._registry)]
        for text in series.families():
            families.append(text.encode())
            await asyncio.sleep(0)
        return b"".join(families)


class ProxyCollector(Collector):
    """The metrics that do not grow with the number of Services."""

    def __init__(
        self,
        store: Store,
        dataplane: Dataplane,
        loop: ReconcileLoop,
        about: About,
        outcomes: Outcomes,
    ) -> None:
        self._store = store
        self._dataplane = dataplane
        self._loop = loop
        self._about = about
        self._outcomes = outcomes

    def collect(self) -> Iterator[Metric]:
        """Read the counts."""
        yield self._info()
        yield from self._programming()
        yield self._faults()
        yield self._objects()
        yield from self._descriptors()
        yield self._posted()
        yield CounterMetricFamily(
            "uproxy_log_lines_dropped", "Log lines that were lost, because nobody took them.", lines_dropped()
        )

    def _posted(self) -> Metric:
        family = CounterMetricFamily(
            "uproxy_events", "Events for the cluster, by what became of them.", labels=["outcome"]
        )
        for outcome, count in sorted(self._outcomes.events.items()):
            family.add_metric([outcome], count)
        return family

    def _info(self) -> Metric:
        about = self._about
        values = {
            "version": __version__,
            "relay": about.relay,
            "capture": about.capture,
            "mechanism": about.mechanism,
        }
        return InfoMetricFamily("uproxy", "How this proxy runs.", values)

    def _programming(self) -> Iterator[Metric]:
        yield _histogram(
            "uproxy_programming_duration_seconds",
            "Time from a batch of changes to all of it programmed.",
            self._loop.duration,
        )
        yield GaugeMetricFamily(
            "uproxy_programming_problems",
            "Addresses that could not be programmed, and are tried again.",
            sum(map(len, self._loop.problems.values())),
        )

    def _faults(self) -> Metric:
        family = GaugeMetricFamily("uproxy_faults", "Objects with mistakes, by source.", labels=["source"])
        faults = self._store.faults
        for source in sorted(faults.keys() | self._store.synced):
            family.add_metric([source], _objects_in_error(faults.get(source, ())))
        return family

    def _objects(self) -> Metric:
        family = GaugeMetricFamily("uproxy_objects", "Objects known, by kind.", labels=["kind"])
        family.add_metric(["Service"], len(self._store.services))
        family.add_metric(["ServicePort"], len(self._store.desired))
        return family

    def _descriptors(self) -> Iterator[Metric]:
        descriptors = self._dataplane.context.descriptors
        yield GaugeMetricFamily(
            "uproxy_descriptors_used",
            "Descriptors of connections, flows and listeners.",
            descriptors.used_by_all,
        )
        yield GaugeMetricFamily(
            "uproxy_descriptors_limit", "Descriptors that these may use.", descriptors.limit
        )
        yield CounterMetricFamily(
            "uproxy_accept_pauses", "Times that accepting paused for want of descriptors.", descriptors.pauses
        )
        yield CounterMetricFamily(
            "uproxy_redirect_strangers",
            "Redirected connections that were meant for no Service.",
            sum(listener.strangers for listener in self._dataplane.redirects),
        )


def _objects_in_error(faults: Iterable[Fault]) -> int:
    """Objects among `faults`: one object may have several mistakes."""
    return len({(fault.file, fault.document, fault.kind, fault.key) for fault in faults})


def _histogram(name: str, meaning: str, histogram: Histogram) -> Metric:
    bounds = [*map(repr, histogram.bounds_s), "+Inf"]
    buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
    return HistogramMetricFamily(name, meaning, buckets, histogram.sum_s)
