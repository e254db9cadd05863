"""Which endpoints a Service has, and which of them take new connections.

Pure. The rules are those of kube-proxy's CategorizeEndpoints and of the endpoint
controllers; docs/semantics.md lists them with their tests.
"""

from collections.abc import Iterable, Mapping

from uproxy.model.endpoint import ContainerPort, Endpoint, EndpointSlice, Origin, Pod, SlicePort
from uproxy.model.frontend import Backend, EndpointState
from uproxy.model.names import Family, IPAddress
from uproxy.model.service import Service, ServicePort

Resolutions = Mapping[str, tuple[IPAddress, ...]]
"""Addresses behind host names; a name not in it has not been resolved yet."""


def authoritative(slices: Iterable[EndpointSlice]) -> list[EndpointSlice]:
    """The slices that count: those of the most authoritative origin, and the flags'."""
    known = list(slices)
    origins = [piece.origin for piece in known if piece.origin is not Origin.FLAG]
    best = min(origins, default=Origin.FLAG)
    return [piece for piece in known if piece.origin in (best, Origin.FLAG)]


def slices_from_pods(service: Service, pods: Iterable[Pod]) -> list[EndpointSlice]:
    """What the EndpointSlice controller would write for the Pods that `service` selects.

    A named targetPort may resolve to another number in every Pod, so each Pod gets a
    slice of its own. A Pod without the named port is no endpoint of that port.
    """
    if not service.selector:
        return []
    wanted = service.selector.items()
    return [_slice_of(service, pod) for pod in pods if wanted <= pod.labels.items()]


def _slice_of(service: Service, pod: Pod) -> EndpointSlice:
    numbers = ((port, _target_number(port, pod.ports)) for port in service.ports)
    ports = tuple(SlicePort(port.name, port.protocol, number) for port, number in numbers if number)
    ready = (pod.ready and not pod.terminating) or service.publish_not_ready_addresses
    endpoints = tuple(
        Endpoint(ip, ready=ready, serving=pod.ready, terminating=pod.terminating) for ip in pod.ips
    )
    return EndpointSlice(pod.key, service.key, ports, endpoints, Origin.PODS)


def _target_number(port: ServicePort, container_ports: Iterable[ContainerPort]) -> int | None:
    if isinstance(port.target_port, int):
        return port.target_port
    for candidate in container_ports:
        if candidate.name == port.target_port and candidate.protocol is port.protocol:
            return candidate.port
    return None


def endpoints_of(
    port: ServicePort, slices: Iterable[EndpointSlice], resolutions: Resolutions
) -> dict[Backend, EndpointState]:
    """All endpoints of one Service port, in the order of the slices.

    An address that appears twice counts once, with the better of its states.
    """
    found: dict[Backend, EndpointState] = {}
    for piece in slices:
        for number in _numbers(port, piece):
            for endpoint in piece.endpoints:
                for ip in _addresses(endpoint, resolutions):
                    backend = Backend(ip, number)
                    found[backend] = _better(found.get(backend), _state(endpoint))
    return found


def _numbers(port: ServicePort, piece: EndpointSlice) -> list[int]:
    return [
        candidate.port
        for candidate in piece.ports
        if candidate.name == port.name and candidate.protocol is port.protocol
    ]


def _addresses(endpoint: Endpoint, resolutions: Resolutions) -> tuple[IPAddress, ...]:
    if isinstance(endpoint.host, str):
        return resolutions.get(endpoint.host, ())
    return (endpoint.host,)


def _state(endpoint: Endpoint) -> EndpointState:
    if endpoint.ready:
        return EndpointState.READY
    if endpoint.serving and endpoint.terminating:
        return EndpointState.TERMINATING
    return EndpointState.NOT_READY


_ORDER = (EndpointState.READY, EndpointState.TERMINATING, EndpointState.NOT_READY)


def _better(one: EndpointState | None, other: EndpointState) -> EndpointState:
    return other if one is None else min(one, other, key=_ORDER.index)


def usable(endpoints: Mapping[Backend, EndpointState]) -> dict[Family, tuple[Backend, ...]]:
    """The endpoints for new connections, by family: the ready ones; while there are none, the
    terminating ones that still serve (KEP-1669).

    A family without any endpoint, of any state, borrows the other's: a relay can join an
    IPv4 client to an IPv6 pod, which no rule in the kernel could.
    """
    by_family = {family: _usable(endpoints, family) for family in _FAMILIES}
    listed = {backend.ip.version for backend in endpoints}
    if len(listed) == 1:
        (only,) = listed
        return dict.fromkeys(_FAMILIES, by_family[only])
    return by_family


_FAMILIES: tuple[Family, ...] = (4, 6)


def _usable(endpoints: Mapping[Backend, EndpointState], family: Family) -> tuple[Backend, ...]:
    for state in (EndpointState.READY, EndpointState.TERMINATING):
        chosen = tuple(
            backend for backend, its in endpoints.items() if its is state and backend.ip.version == family
        )
        if chosen:
            return chosen
    return ()
