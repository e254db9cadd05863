"""The metrics of Service ports.

Owns their names, their labels, and what is left out: a Service that nobody has called yet
has its totals and its endpoints only, and an endpoint that nobody was sent to has no series of its own.
Everything else begins with the first event, and stays from then on.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

from uproxy.admin.endpoints import any_ejected, count_by_state
from uproxy.admin.exposition import Family, HistogramFamily, label_text
from uproxy.model.frontend import DesiredServicePort, EndpointState
from uproxy.model.names import Protocol
from uproxy.picking.routes import ProgrammedPort
from uproxy.picking.stats import CONNECT_BUCKETS_S, PortStats
from uproxy.picking.waiting import Wait


class PortText:
    """What is the same in every scrape while a Service port is not reprogrammed."""

    __slots__ = ("by_state", "desired", "labels")

    def __init__(self, desired: DesiredServicePort) -> None:
        self.desired = desired
        self.labels = _labels(desired)
        self.by_state = {EndpointState.READY.value: 0} | Counter(desired.endpoints.values())
        """Endpoints by state, while none of them sits out."""


class PortSeries:
    """The text of one scrape, collected port by port and written family by family.

    `known` is `texts` of the scrape before, which makes an idle Service four times cheaper.
    """

    def __init__(self, now_s: float, known: Mapping[ProgrammedPort, PortText]) -> None:
        self.texts: dict[ProgrammedPort, PortText] = {}
        self._known = known
        self._now_s = now_s
        self._begin_tcp()
        self._begin_udp()
        self._bytes = Family(
            "uproxy_bytes_total", "counter", "Payload bytes relayed, of open connections too.", "direction"
        )
        self._dial_failures = Family(
            "uproxy_dial_failures_total", "counter", "Endpoints that could not be reached.", "reason"
        )
        self._endpoints = Family(
            "uproxy_endpoints", "gauge", "Endpoints in each state that any is in.", "state"
        )
        self._in_kernel = Family(
            "uproxy_connections_in_kernel", "gauge", "Connections, or UDP flows, that the kernel carries now."
        )
        self._begin_by_endpoint()

    def _begin_by_endpoint(self) -> None:
        self._endpoint_active = Family(
            "uproxy_endpoint_connections_active", "gauge", "Connections, or UDP flows, open now.", "endpoint"
        )
        self._endpoint_connections = Family(
            "uproxy_endpoint_connections_total", "counter", "Connections, or UDP flows, made.", "endpoint"
        )
        self._endpoint_failures = Family(
            "uproxy_endpoint_dial_failures_total", "counter", "Times it could not be reached.", "endpoint"
        )

    def _begin_tcp(self) -> None:
        self._connections = Family("uproxy_connections_total", "counter", "TCP connections accepted.")
        self._active = Family("uproxy_connections_active", "gauge", "TCP connections open now.")
        self._waiting = Family(
            "uproxy_connections_waiting", "gauge", "TCP connections that wait to be dialled for.", "for"
        )
        self._closes = Family("uproxy_connections_closed_total", "counter", "TCP connections over.", "reason")
        self._connect_time = HistogramFamily(
            "uproxy_connect_duration_seconds", CONNECT_BUCKETS_S, "Time to connect to an endpoint."
        )

    def _begin_udp(self) -> None:
        self._flows = Family("uproxy_udp_flows_total", "counter", "UDP flows begun.")
        self._flows_active = Family("uproxy_udp_flows_active", "gauge", "UDP flows open now.")
        self._flows_evicted = Family(
            "uproxy_udp_flows_evicted_total", "counter", "UDP flows ended to make room for others."
        )
        self._datagrams = Family("uproxy_udp_datagrams_total", "counter", "UDP datagrams.", "direction")
        self._datagrams_dropped = Family(
            "uproxy_udp_datagrams_dropped_total", "counter", "UDP datagrams that could not be passed on."
        )

    def add(self, programmed: ProgrammedPort) -> None:
        """Collect the series of one Service port."""
        text = self._text_of(programmed)
        labels, stats = text.labels, programmed.stats
        if text.desired.name.protocol is Protocol.UDP:
            self._add_udp(labels, stats)
        else:
            self._add_tcp(labels, stats)
            self._add_waiting(labels, programmed)
        _add_both(self._bytes, labels, stats.bytes_to_backend, stats.bytes_to_client)
        for failure, count in stats.dial_failures.items():
            self._dial_failures.add_by(labels, failure, count)
        ejecting = any_ejected(programmed, self._now_s)
        by_state = count_by_state(programmed, self._now_s) if ejecting else text.by_state
        for state, count in by_state.items():
            self._endpoints.add_by(labels, state, count)
        if stats.in_kernel:
            self._in_kernel.add(labels, stats.in_kernel)
        if stats.connections or stats.flows:
            self._add_by_endpoint(labels, programmed)

    def _text_of(self, programmed: ProgrammedPort) -> PortText:
        text = self._known.get(programmed)
        if text is None or text.desired is not programmed.desired:
            text = PortText(programmed.desired)
        self.texts[programmed] = text
        return text

    def _add_tcp(self, labels: str, stats: PortStats) -> None:
        self._connections.add(labels, stats.connections)
        self._active.add(labels, stats.active + stats.in_kernel)
        if not stats.connections:
            return
        for reason, count in stats.closes.items():
            self._closes.add_by(labels, reason, count)
        if any(stats.connect_time.counts):
            self._connect_time.add(labels, stats.connect_time)

    def _add_waiting(self, labels: str, programmed: ProgrammedPort) -> None:
        """Where the Service lets somebody wait, or does so still."""
        options = programmed.desired.options
        may_wait = {Wait.PLACE: options.queue_max > 0, Wait.ENDPOINT: options.hold_s is not None}
        for wait, count in programmed.room.numbers.items():
            if count or may_wait[wait]:
                self._waiting.add_by(labels, wait, count)

    def _add_by_endpoint(self, labels: str, programmed: ProgrammedPort) -> None:
        for state in programmed.states.values():
            if not state.connections and not state.dial_failures:
                continue
            endpoint = str(state.backend)
            self._endpoint_active.add_by(labels, endpoint, state.active)
            self._endpoint_connections.add_by(labels, endpoint, state.connections)
            if state.dial_failures:
                self._endpoint_failures.add_by(labels, endpoint, state.dial_failures)

    def _add_udp(self, labels: str, stats: PortStats) -> None:
        self._flows.add(labels, stats.flows)
        self._flows_active.add(labels, stats.flows_active + stats.in_kernel)
        if stats.flows_evicted:
            self._flows_evicted.add(labels, stats.flows_evicted)
        _add_both(self._datagrams, labels, stats.datagrams_to_backend, stats.datagrams_to_client)
        if stats.datagrams_dropped:
            self._datagrams_dropped.add(labels, stats.datagrams_dropped)

    def families(self) -> Iterator[str]:
        """The text, one family at a time."""
        yield self._connections.text()
        yield self._active.text()
        yield self._waiting.text()
        yield self._closes.text()
        yield self._bytes.text()
        yield self._dial_failures.text()
        yield self._connect_time.text()
        yield self._flows.text()
        yield self._flows_active.text()
        yield self._flows_evicted.text()
        yield self._datagrams.text()
        yield self._datagrams_dropped.text()
        yield self._in_kernel.text()
        yield self._endpoints.text()
        yield self._endpoint_active.text()
        yield self._endpoint_connections.text()
        yield self._endpoint_failures.text()


def _labels(desired: DesiredServicePort) -> str:
    name = desired.name
    return label_text(
        {
            "namespace": name.namespace,
            "service": name.name,
            "port": name.port or str(desired.port),
            "protocol": name.protocol.value,
        }
    )


def _add_both(family: Family, labels: str, to_backend: int, to_client: int) -> None:
    if to_backend:
        family.add_by(labels, "to_backend", to_backend)
    if to_client:
        family.add_by(labels, "to_client", to_client)
