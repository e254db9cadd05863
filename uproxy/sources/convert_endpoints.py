"""The rules for EndpointSlice (discovery.k8s.io/v1) and the older Endpoints (v1)."""

from collections.abc import Callable, Iterator

from uproxy.model.endpoint import Endpoint, EndpointSlice, Origin, SlicePort
from uproxy.model.names import Family, IPAddress, NamespacedName, Protocol
from uproxy.sources.convert_service import PROTOCOLS
from uproxy.sources.cursor import Cursor, fault_repeats, shown

_SERVICE_LABEL = "kubernetes.io/service-name"
_FAMILIES: tuple[Family, Family] = (4, 6)

_Host = IPAddress | str
"""An endpoint's host; empty when faulty."""


def endpoint_slice(root: Cursor, key: NamespacedName) -> tuple[EndpointSlice] | None:
    """One slice; None when it belongs to no Service."""
    labels = root.at("metadata", "labels")
    labels.texts()
    service = labels.at(_SERVICE_LABEL).label()
    if not service:
        return None
    read_host = root.at("addressType").required().choice(_READERS, _host_name)
    endpoints = tuple(_endpoint(item, read_host) for item in root.at("endpoints").items())
    ports = _ports(root.at("ports").items())
    return (EndpointSlice(key, NamespacedName(key.namespace, service), ports, endpoints),)


def _endpoint(item: Cursor, read_host: Callable[[Cursor], _Host]) -> Endpoint:
    """Only the first address counts: the API gives no meaning to further ones (KEP-752)."""
    hosts = [read_host(address.required()) for address in item.at("addresses").required().items()]
    conditions = item.at("conditions")
    ready = conditions.at("ready").boolean(default=True)
    return Endpoint(
        host=hosts[0] if hosts else "",
        ready=ready,
        serving=conditions.at("serving").boolean(default=True),  # kube-proxy's default
        terminating=conditions.at("terminating").boolean(default=False),
        node=item.at("nodeName").subdomain() or None,
        hostname=item.at("hostname").label(),
        for_nodes=_hinted(item.at("hints", "forNodes")),
        for_zones=_hinted(item.at("hints", "forZones")),
    )


def _hinted(hints: Cursor) -> frozenset[str]:
    return frozenset(hint.at("name").required().text() for hint in hints.items())


def _ipv4(address: Cursor) -> _Host:
    return _of_family(address, 4)


def _ipv6(address: Cursor) -> _Host:
    return _of_family(address, 6)


def _of_family(address: Cursor, family: Family) -> _Host:
    ip = address.endpoint()
    if ip and ip.version != family:
        address.fault(f"must be an IPv{family} address as addressType says, not {shown(address.value)}")
    return ip or ""


def _host_name(address: Cursor) -> _Host:
    """With a dot at its end, so that no search domain is ever tried (RFC 1034, 3.1)."""
    name = address.subdomain()
    return f"{name}." if name else ""


_READERS: dict[str, Callable[[Cursor], _Host]] = {"IPv4": _ipv4, "IPv6": _ipv6, "FQDN": _host_name}


def _ports(items: list[Cursor]) -> tuple[SlicePort, ...]:
    """A port without a number means "all ports", which no proxy can serve; kube-proxy skips it too."""
    ports = [_port(item) for item in items]
    fault_repeats((item.at("name"), port.name) for item, port in zip(items, ports, strict=True))
    return tuple(port for port in ports if port.port)


def _port(item: Cursor) -> SlicePort:
    return SlicePort(
        name=item.at("name").label(),
        protocol=item.at("protocol").choice(PROTOCOLS, Protocol.TCP),
        port=item.at("port").port(),
    )


def endpoints(root: Cursor, key: NamespacedName) -> tuple[EndpointSlice, ...]:
    """An Endpoints object as slices: one for each subset and address family.

    They are named `NAME-0`, `NAME-1`... as the mirroring controller in a cluster would
    name real slices after the object.
    """
    return tuple(
        EndpointSlice(
            key=NamespacedName(key.namespace, f"{key.name}-{number}"),
            service=key,
            ports=ports,
            endpoints=members,
            origin=Origin.ENDPOINTS,
        )
        for number, (ports, members) in enumerate(_subsets(root))
    )


def _subsets(root: Cursor) -> Iterator[tuple[tuple[SlicePort, ...], tuple[Endpoint, ...]]]:
    for subset in root.at("subsets").items():
        ports = subset.at("ports").items()
        if len(ports) > 1:
            for port in ports:
                port.at("name").required()
        for port in ports:
            port.at("port").required()
        read_ports = _ports(ports)
        members = _addresses(subset.at("addresses"), ready=True)
        members += _addresses(subset.at("notReadyAddresses"), ready=False)
        for family in _FAMILIES:
            alike = tuple(member for ip, member in members if ip.version == family)
            if alike:
                yield read_ports, alike


def _addresses(field: Cursor, ready: bool) -> list[tuple[IPAddress, Endpoint]]:
    """With the hostname and the node, which a mirrored slice has as well."""
    found = []
    for item in field.items():
        address = item.at("ip").required().endpoint()
        hostname, node = item.at("hostname").label(), item.at("nodeName").subdomain() or None
        if address:
            found.append((address, Endpoint(address, ready, ready, node=node, hostname=hostname)))
    return found
