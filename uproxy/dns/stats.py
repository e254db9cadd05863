"""What is counted: plain integers, read when somebody asks (CoreDNS has metrics of these names)."""

from collections import Counter

from uproxy.kit.histogram import Histogram
from uproxy.kit.mishaps import Mishaps

# coredns_dns_request_duration_seconds: 0.25 ms doubled 15 times.
DURATION_BUCKETS_S = tuple(0.00025 * 2**power for power in range(16))
_RCODES = 24


class DnsStats:
    """Counts since the start."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, int], Counter[int]] = {
            (transport, family): Counter() for transport in ("udp", "tcp") for family in (4, 6)
        }
        """By transport and address family, then record type (dns_requests_total)."""
        self.responses = [0] * _RCODES
        """By rcode (dns_responses_total)."""
        self.duration = Histogram(DURATION_BUCKETS_S)
        """From a query to its answer (dns_request_duration_seconds)."""
        self.dropped: Counter[str] = Counter()
        """Packets without an answer, by reason."""
        self.cache_hits: Counter[str] = Counter()
        """By `success` or `denial` (cache_hits_total)."""
        self.cache_misses = 0
        self.upstream_requests = 0
        """Questions sent to an upstream server (forward_requests_total)."""
        self.upstream_failures = 0
        """Those without a usable answer in time."""
        self.upstream_refused = 0
        """Not sent: too many are under way (forward_max_concurrent_rejects_total)."""
        self.autopath_hits = 0
        """Outside names found at the first query (autopath_success_total)."""
        self.loops = 0
        """ExternalNames that lead back to themselves, and queries that came back from upstream."""
        self.changes = Histogram(DURATION_BUCKETS_S)
        """How long it took to make the names of a batch of changes anew."""
        self._mishaps = Mishaps()

    def failed(self, error: BaseException) -> None:
        """A packet or a question met a fault of ours, which harms no other."""
        self.dropped["failed"] += 1
        self._mishaps.tell("a DNS query", error)
