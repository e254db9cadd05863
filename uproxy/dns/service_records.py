"""The records of one Service, by Kubernetes' DNS specification 1.1.0 and CoreDNS's additions to it.

Pure. Owns which records a Service has, and which object each comes from. Refuses to know of
other Services, and of names that only lie on the way to a record.

Added to the specification, as in CoreDNS: SRV of all ports at the Service's own name, which
peer finders of StatefulSets ask for.
"""

from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from typing import NamedTuple

from uproxy.dns.objects import Parts
from uproxy.dns.wire import Malformed, Type, from_text, join, srv_data
from uproxy.model.endpoint import Endpoint, EndpointSlice, Origin
from uproxy.model.frontend import DesiredServicePort, Frontend, FrontendKind
from uproxy.model.names import IPAddress, Protocol
from uproxy.model.service import Service, ServiceType

_SHARES = 100
"""The weights of a set of SRV records add up to this, nearly (CoreDNS)."""
_ORIGINS = {
    Origin.ENDPOINT_SLICE: "EndpointSlice",
    Origin.ENDPOINTS: "Endpoints",
    Origin.PODS: "Pod",
    Origin.FLAG: "--endpoint",
}


_REVERSE4, _REVERSE6 = from_text("in-addr.arpa"), from_text("ip6.arpa")
_OCTETS = [bytes((len(text),)) + text for text in (str(octet).encode() for octet in range(256))]
_NIBBLES = [b"\1%x\1%x" % (octet & 0xF, octet >> 4) for octet in range(256)]
"""What an octet of an address is in a reverse name."""


class Entry(NamedTuple):
    """One record without its TTL, and where it comes from: `clusterIP`, `EndpointSlice web-x7x2p`."""

    owner: bytes
    type: Type
    data: bytes
    source: str


class Served(NamedTuple):
    """A port as clients reach it."""

    name: str
    protocol: Protocol
    number: int


Target = tuple[Served, bytes, str]
"""A port, the name of who serves it, and where that was said."""


class SrvSet(NamedTuple):
    """The SRV records of one name."""

    owner: bytes
    weight: int
    members: dict[tuple[int, bytes], str]
    """Port number and target, with where they come from."""


def service_entries(parts: Parts, domain: bytes) -> list[Entry]:
    """All records of a Service in `domain`, a name in lower case; what no name can hold is left out."""
    service = parts.service
    own = own_name(service, domain)
    if own is None:
        return []
    if service.type is ServiceType.EXTERNAL_NAME:
        return list(_external_name(service, own))
    entries = _headless(parts, own) if service.headless else _cluster_ip(parts, own)
    return list(dict.fromkeys(entries))


def standing_names(parts: Parts, entries: Iterable[Entry], domain: bytes) -> Iterator[bytes]:
    """Names that exist also without a record: a Service's that the proxy has no address for, and
    those on the way to an SRV record, `_tcp.web...`."""
    own = own_name(parts.service, domain)
    if own is not None and parts.ports and parts.service.captured:
        yield own
    for owner, kind, _, _ in entries:
        if kind is Type.SRV and owner != own:
            yield way_to(owner)


def way_to(owner: bytes) -> bytes:
    """The name above: `_tcp.web...` of `_http._tcp.web...`."""
    return owner[1 + owner[0] :]


def own_name(service: Service, domain: bytes) -> bytes | None:
    """`web.default.svc.cluster.local`; None when that is too long."""
    try:
        return join(*_lower(service.key.name, service.key.namespace, "svc"), base=domain)
    except Malformed:
        return None


def _lower(*labels: str) -> list[bytes]:
    return [label.lower().encode() for label in labels]


def reverse_name(ip: IPAddress) -> bytes:
    """Where the PTR record of an address stands."""
    labels, base = (_OCTETS, _REVERSE4) if ip.version == 4 else (_NIBBLES, _REVERSE6)
    return b"".join([labels[octet] for octet in reversed(ip.packed)]) + base


# ---- ClusterIP ----


def _cluster_ip(parts: Parts, own: bytes) -> Iterator[Entry]:
    addresses = cluster_addresses(parts)
    for ip, source in addresses.items():
        yield Entry(own, address_type(ip), ip.packed, source)
        yield Entry(reverse_name(ip), Type.PTR, own, source)
    if addresses:
        ports = list(_served(parts))
        yield from _srv_of_service([(port, own, f"port {port.number}") for port in ports], own)


def cluster_addresses(parts: Parts) -> dict[IPAddress, str]:
    """The addresses that clients use, each with its origin.

    They are those that the proxy serves. Before it has programmed the Service there are none;
    where it serves none, since it leaves the Service alone or cannot relay any of its ports,
    they are those of the manifest.
    """
    service = parts.service
    served = {f.vip.ip: _origin(service, f.vip.ip) for port in parts.ports for f in _cluster(port)}
    if service.captured and (served or not parts.ports):
        return served
    return dict.fromkeys(service.cluster_ips, "clusterIP")


def _origin(service: Service, ip: IPAddress) -> str:
    return "clusterIP" if ip in service.cluster_ips else "allocated by uproxy"


def _cluster(port: DesiredServicePort) -> list[Frontend]:
    return [frontend for frontend in port.frontends if frontend.kind is FrontendKind.CLUSTER_IP]


def _served(parts: Parts) -> Iterator[Served]:
    """The Service's ports, each with the number on which it is served."""
    numbers = {
        (desired.name.port, desired.name.protocol): frontend.vip.port
        for desired in parts.ports
        for frontend in _cluster(desired)
    }
    for port in parts.service.ports:
        number = numbers.get((port.name, port.protocol), port.port)
        yield Served(port.name, port.protocol, number)


# ---- headless ----


def _headless(parts: Parts, own: bytes) -> Iterator[Entry]:
    targets: list[Target] = []
    for piece in parts.slices:
        source = f"{_ORIGINS[piece.origin]} {piece.key}"
        ports = served_ports(piece)
        for endpoint in piece.endpoints:
            target = endpoint_name(endpoint, own) if has_name(parts.service, endpoint) else None
            if target is None or isinstance(endpoint.host, str):
                continue
            kind, data = address_type(endpoint.host), endpoint.host.packed
            yield Entry(own, kind, data, source)
            yield Entry(target, kind, data, source)
            yield Entry(reverse_name(endpoint.host), Type.PTR, target, source)
            targets += [(port, target, source) for port in ports]
    yield from _srv_of_service(targets, own)


def served_ports(piece: EndpointSlice) -> list[Served]:
    """The ports of a slice."""
    return [Served(port.name, port.protocol, port.port) for port in piece.ports]


def has_name(service: Service, endpoint: Endpoint) -> bool:
    """Whether an endpoint of a headless Service has records; an FQDN has a name already."""
    return (endpoint.ready or service.publish_not_ready_addresses) and not isinstance(endpoint.host, str)


def endpoint_name(endpoint: Endpoint, own: bytes) -> bytes | None:
    """The name of one endpoint, below its Service's; None when that is too long."""
    try:
        return join(*_lower(endpoint.hostname or endpoint_label(endpoint.host)), base=own)
    except Malformed:
        return None


def address_type(ip: IPAddress) -> Type:
    """A or AAAA."""
    return Type.A if ip.version == 4 else Type.AAAA


def endpoint_label(ip: IPAddress | str) -> str:
    """The name of an endpoint without a hostname: its address with dashes (CoreDNS)."""
    return str(ip).replace(".", "-").replace(":", "-")


# ---- SRV ----


def _srv_of_service(targets: Iterable[Target], own: bytes) -> Iterator[Entry]:
    for owner, weight, members in srv_sets(targets, own):
        for (number, target), source in members.items():
            yield Entry(owner, Type.SRV, srv_data(0, weight, number, target), source)


def srv_sets(targets: Iterable[Target], own: bytes) -> Iterator[SrvSet]:
    """SRV records: of all ports at the Service's own name, of named ones at `_name._protocol`."""
    sets: dict[bytes, dict[tuple[int, bytes], str]] = {own: {}}
    homes: dict[Served, tuple[dict[tuple[int, bytes], str], ...]] = {}
    for port, target, source in targets:
        those = homes.get(port)
        if those is None:
            owner = _srv_owner(port, own)
            named = (sets.setdefault(owner, {}),) if owner is not None else ()
            those = homes[port] = (sets[own], *named)
        for members in those:
            members[port.number, target] = source
    for owner, members in sets.items():
        if members:
            yield SrvSet(owner, max(1, _SHARES // len(members)), members)


def _srv_owner(port: Served, own: bytes) -> bytes | None:
    if not port.name:
        return None
    try:
        return join(*_lower(f"_{port.name}", f"_{port.protocol}"), base=own)
    except Malformed:
        return None


# ---- ExternalName ----


def _external_name(service: Service, own: bytes) -> Iterator[Entry]:
    target = external_target(service)
    if target is not None:
        yield Entry(own, Type.CNAME, target, "externalName")


def external_target(service: Service) -> bytes | None:
    """Where an ExternalName leads; None when it is not a name: an address is none (CoreDNS)."""
    try:
        ip_address(service.external_name)
    except ValueError:
        try:
            return from_text(service.external_name) if service.external_name.strip(".") else None
        except Malformed:
            return None
    return None
