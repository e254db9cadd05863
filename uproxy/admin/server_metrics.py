"""What our own servers count of those who connect to them, as metrics."""

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from uproxy.kit.guests import Guests


class ServerCollector(Collector):
    """The metrics of the HTTP servers, of health check ports, and of DNS by TCP."""

    def __init__(self, guests: Iterable[Guests]) -> None:
        self._guests = tuple(guests)

    def collect(self) -> Iterator[Metric]:
        """Read the counts."""
        there = GaugeMetricFamily(
            "uproxy_server_connections", "Connections to uproxy's own servers.", labels=["server"]
        )
        ended = CounterMetricFamily(
            "uproxy_server_connections_ended",
            "Those that were refused, or ended by uproxy, by reason.",
            labels=["server", "reason"],
        )
        for guests in self._guests:
            there.add_metric([guests.name], len(guests))
            for reason, count in sorted(guests.ended.items()):
                ended.add_metric([guests.name, reason], count)
        yield there
        yield ended
