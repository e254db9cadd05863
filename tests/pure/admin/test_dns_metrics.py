"""Metrics of cluster DNS: CoreDNS's names and labels, where it has them."""

import pytest
from prometheus_client import CollectorRegistry

from uproxy.admin.dns_metrics import DnsCollector
from uproxy.dns.stats import DnsStats
from uproxy.dns.wire import Rcode, Type


@pytest.fixture
def stats() -> DnsStats:
    stats = DnsStats()
    stats.requests["udp", 4].update({Type.A: 3, 65280: 1, 65281: 1})
    stats.requests["tcp", 6].update({Type.HTTPS: 2})
    stats.responses[Rcode.NXDOMAIN] = 2
    stats.duration.record(0.0004)
    stats.changes.record(0.003)
    stats.dropped.update({"rate": 5, "network not served": 1})
    stats.cache_hits.update({"success": 7, "denial": 8})
    stats.cache_misses, stats.upstream_requests, stats.upstream_refused = 9, 10, 11
    stats.autopath_hits, stats.loops, stats.upstream_failures = 12, 13, 14
    return stats


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("coredns_dns_requests_total", {"proto": "udp", "family": "1", "type": "A"}, 3),
        ("coredns_dns_requests_total", {"proto": "udp", "family": "1", "type": "other"}, 2),
        ("coredns_dns_requests_total", {"proto": "tcp", "family": "2", "type": "HTTPS"}, 2),
        ("coredns_dns_responses_total", {"rcode": "NXDOMAIN"}, 2),
        ("coredns_dns_request_duration_seconds_bucket", {"le": "0.0005"}, 1),
        ("coredns_dns_request_duration_seconds_bucket", {"le": "0.00025"}, 0),
        ("coredns_dns_request_duration_seconds_count", {}, 1),
        ("coredns_cache_hits_total", {"type": "success"}, 7),
        ("coredns_cache_hits_total", {"type": "denial"}, 8),
        ("coredns_cache_misses_total", {}, 9),
        ("coredns_forward_requests_total", {}, 10),
        ("coredns_forward_max_concurrent_rejects_total", {}, 11),
        ("coredns_autopath_success_total", {}, 12),
        ("uproxy_dns_loops_total", {}, 13),
        ("uproxy_dns_upstream_failures_total", {}, 14),
        ("uproxy_dns_dropped_total", {"reason": "rate"}, 5),
        ("uproxy_dns_dropped_total", {"reason": "network not served"}, 1),
        ("uproxy_dns_change_duration_seconds_count", {}, 1),
    ],
)
def test_metric(stats, name, labels, value):
    registry = CollectorRegistry()
    registry.register(DnsCollector(stats))
    assert registry.get_sample_value(name, labels) == value
