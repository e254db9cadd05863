"""Bytes relayed so far, those of connections that are still open included.

A connection adds its bytes to its Service port's counts only when it ends. Here both halves
are read in one go: read at two moments, a connection that ends in between would count
twice, and the next reading, lower than this one, would look like a restart.
"""

from collections.abc import Iterable

from uproxy.dataplane.connection import Connection
from uproxy.dataplane.stats import PortStats


class RelayedBytes:
    """The bytes of every Service port, as of when this was made.

    Ports without an open connection are read when asked for: what ended stays counted.
    """

    def __init__(self, live: Iterable[Connection]) -> None:
        # By PortStats, not by name: connections may outlive their Service, and another one
        # of the same name starts at zero.
        self._ports_in_use: dict[PortStats, tuple[int, int]] = {}
        totals = self._ports_in_use
        for connection in live:
            stats = connection.route.stats
            to_backend, to_client = totals.get(stats) or (stats.bytes_to_backend, stats.bytes_to_client)
            more_to_backend, more_to_client = connection.bytes_relayed()
            totals[stats] = (to_backend + more_to_backend, to_client + more_to_client)

    def of(self, stats: PortStats) -> tuple[int, int]:
        """Bytes to the backends and to the clients of one Service port."""
        return self._ports_in_use.get(stats) or (stats.bytes_to_backend, stats.bytes_to_client)
