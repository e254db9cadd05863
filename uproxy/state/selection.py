"""Which endpoints a Service port has, from whatever says so: slices, Endpoints, Pods, flags.

Pure. The rules are those of the endpoint controllers; docs/semantics.md lists them with their
tests. Which endpoints take new connections is `policy`'s business.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from uproxy.model.endpoint import ContainerPort, Endpoint, EndpointSlice, Origin, Pod, SlicePort
from uproxy.model.frontend import Backend, EndpointState
from uproxy.model.names import IPAddress
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
        Endpoint(ip, ready=ready, serving=pod.ready, terminating=pod.terminating, node=pod.node)
        for ip in pod.ips
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
) -> dict[Backend, Endpoint]:
    """All endpoints of one Service port, in the order of the slices.

    An address that appears twice counts once. Where a Pod's address is another's before the first is quite
    gone, it is the one that does not end that counts, ready or not, as for kube-proxy
    (endpointslicecache.go). Of two that are alike it is the one in the better state.
    """
    found: dict[Backend, Endpoint] = {}
    for piece in slices:
        for number in _numbers(port, piece):
            for endpoint in piece.endpoints:
                for ip in _addresses(endpoint, resolutions):
                    backend = Backend(ip, number)
                    other = found.setdefault(backend, endpoint)
                    if other is not endpoint:
                        found[backend] = _better(other, endpoint)
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


def state_of(endpoint: Endpoint) -> EndpointState:
    """How an endpoint stands."""
    if endpoint.ready:
        return EndpointState.READY
    if endpoint.serving and endpoint.terminating:
        return EndpointState.TERMINATING
    return EndpointState.NOT_READY


_ORDER = (EndpointState.READY, EndpointState.TERMINATING, EndpointState.NOT_READY)


def _better(one: Endpoint, other: Endpoint) -> Endpoint:
    return min(one, other, key=lambda its: (its.terminating, _ORDER.index(state_of(its))))


def local_ready_endpoints(slices: Iterable[EndpointSlice], node_name: str | None) -> int:
    """How many ready endpoints run on the node of this name: what load balancers are told.

    Those that only still serve while they end do not count. An endpoint that serves several ports
    is one, and so is a Pod that has an address of each family. Without a name all are local.
    """
    ready = {
        endpoint.host
        for piece in slices
        for endpoint in piece.endpoints
        if endpoint.ready and node_name in (None, endpoint.node)
    }
    families = Counter(4 if isinstance(host, str) else host.version for host in ready)
    return max(families.values(), default=0)
