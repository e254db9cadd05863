"""What the data plane counts: plain integers, read when somebody asks.

Incrementing an attribute costs a tenth of a metrics library's counter, and these are on
the path of every connection. `admin/metrics.py` turns them into Prometheus text.
"""

from uproxy.kit.histogram import Histogram
from uproxy.model.closing import CloseReason, DialFailure

CONNECT_BUCKETS_S = (0.0005, 0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 2.5)
"""From one host to across the world, then retransmitted handshakes. Few, because every Service
port has them all."""


class PortStats:
    """Counts of one Service port, over all its addresses and endpoints, since the start."""

    __slots__ = (
        "active",
        "bytes_to_backend",
        "bytes_to_client",
        "closes",
        "connect_time",
        "connections",
        "datagrams_dropped",
        "datagrams_to_backend",
        "datagrams_to_client",
        "dial_failures",
        "flows",
        "flows_active",
        "flows_evicted",
        "in_kernel",
    )

    def __init__(self) -> None:
        self.connections = 0
        """Accepted, TCP."""
        self.active = 0
        self.in_kernel = 0
        """Connections, or flows, that the kernel carries now: beside `active` and `flows_active`."""
        self.bytes_to_backend = 0
        """Of ended connections and of UDP; those still open are added when read."""
        self.bytes_to_client = 0
        self.dial_failures: dict[DialFailure, int] = {}
        self.closes: dict[CloseReason, int] = {}
        self.connect_time = Histogram(CONNECT_BUCKETS_S)
        """Of dials that succeeded."""
        self.flows = 0
        """UDP flows begun."""
        self.flows_active = 0
        self.flows_evicted = 0
        self.datagrams_to_backend = 0
        self.datagrams_to_client = 0
        self.datagrams_dropped = 0
        """Not delivered: no endpoint took them, or a socket had no room."""

    def dial_failed(self, failure: DialFailure) -> None:
        """Count a failed dial."""
        self.dial_failures[failure] = self.dial_failures.get(failure, 0) + 1

    def closed(self, reason: CloseReason) -> None:
        """Count the end of a connection."""
        self.closes[reason] = self.closes.get(reason, 0) + 1
