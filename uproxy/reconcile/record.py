"""What programming has done and has yet to do, in the numbers that kube-proxy gives of itself.

Owns when a change counts as programmed, and how long it was on its way: from the moment the
endpoint controller noted for it (annotation endpoints.kubernetes.io/last-change-trigger-time)
until all of its Service's addresses were programmed. Pure: the clock is passed in.
Source: kube-proxy 1.36, pkg/proxy/endpointschangetracker.go, pkg/proxy/metrics/metrics.go.
"""

from collections.abc import Callable, Container, Iterable

from uproxy.kit.histogram import Histogram
from uproxy.model.endpoint import EndpointSlice, Pod
from uproxy.model.events import Delete, Event, Upsert
from uproxy.model.names import Family, NamespacedName
from uproxy.model.service import Service

FAMILIES: tuple[Family, ...] = (4, 6)
NETWORK_BUCKETS_S = (
    *(0.0, 0.25, 0.5),
    *(float(seconds) for seconds in range(1, 60)),
    *(float(seconds) for seconds in range(60, 120, 5)),
    *(float(seconds) for seconds in range(120, 301, 30)),
)
"""kube-proxy's, the 0 at their beginning included, which its way of merging lists leaves there."""

KnownSlice = Callable[[EndpointSlice], EndpointSlice | None]
"""The version of a slice that was in force until now."""


class Arrivals:
    """How many changes of one kind came."""

    __slots__ = ("pending", "total")

    def __init__(self) -> None:
        self.total = 0
        self.pending = 0
        """Those that programming has not begun with."""


class Record:
    """Counts and times of one reconcile loop. `wall` gives Unix time in seconds."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self.services = Arrivals()
        self.endpoints = Arrivals()
        self.queued_at_s = 0.0
        """When the last change came; 0 before the first."""
        self.programmed_at_s = 0.0
        """When everything known was last programmed; 0 before the first time."""
        self.network_latency = {family: Histogram(NETWORK_BUCKETS_S) for family in FAMILIES}
        self._wall = wall
        self._started_at_s = wall()
        self._on_their_way: dict[NamespacedName, list[tuple[Family, float]]] = {}

    def queued(self, event: Event) -> None:
        """Note a change that came in."""
        if not isinstance(event, Upsert | Delete):
            return
        self.queued_at_s = self._wall()
        if isinstance(event.object, Service):
            _count(self.services)
        elif isinstance(event.object, EndpointSlice | Pod):
            _count(self.endpoints)

    def begun(self, events: Iterable[Event], known: KnownSlice) -> None:
        """Note what is about to be programmed; to be called before it comes into force."""
        self.services.pending = self.endpoints.pending = 0
        for event in events:
            if isinstance(event, Upsert) and isinstance(event.object, EndpointSlice):
                self._note_trigger(event.object, known)

    def _note_trigger(self, piece: EndpointSlice, known: KnownSlice) -> None:
        """A slice that says nothing new, as after a list that is given again, was not on its way."""
        since_s = piece.triggered_at_s
        if since_s is None or since_s <= self._started_at_s or known(piece) == piece:
            return
        versions = (
            endpoint.host.version for endpoint in piece.endpoints if not isinstance(endpoint.host, str)
        )
        self._on_their_way.setdefault(piece.service, []).append((next(versions, 4), since_s))

    def programmed(self, troubled: Container[NamespacedName]) -> None:
        """Note that everything begun is programmed, but for some addresses of the Services `troubled`,
        which go on being on their way."""
        now_s = self.programmed_at_s = self._wall()
        for service in [service for service in self._on_their_way if service not in troubled]:
            for family, since_s in self._on_their_way.pop(service):
                self.network_latency[family].record(max(0.0, now_s - since_s))


def _family(piece: EndpointSlice) -> Family:
    """All endpoints of a slice are of one; a slice without any is taken for IPv4."""
    hosts = (endpoint.host for endpoint in piece.endpoints)
    return next((host.version for host in hosts if not isinstance(host, str)), 4)


def _count(arrivals: Arrivals) -> None:
    arrivals.total += 1
    arrivals.pending += 1
