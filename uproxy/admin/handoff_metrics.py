"""Who carries what: the metrics of handoff."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from uproxy.handoff.target import KernelPaths


class HandoffCollector(Collector):
    """There is one only with `--handoff`."""

    def __init__(self, paths: KernelPaths) -> None:
        self._paths = paths

    def collect(self) -> Iterator[Metric]:
        """Read the counts."""
        carried = GaugeMetricFamily(
            "uproxy_handoff_service_port",
            "1 for each Service port whose new connections the kernel takes.",
            labels=["namespace", "service", "port", "protocol", "path"],
        )
        for name in sorted(self._paths.carried):
            carried.add_metric([*name[:3], name.protocol.value, self._paths.mechanism.name], 1)
        yield carried
        moves = CounterMetricFamily("uproxy_handoff_moves", "Service ports that moved.", labels=["to"])
        for to, count in self._paths.moves.items():
            moves.add_metric([to], count)
        yield moves
