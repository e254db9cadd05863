"""Objects in short words, and a DNS server without sockets that is asked by dnspython."""

from ipaddress import ip_address, ip_network

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype

from uproxy.dns.loops import LoopGuard
from uproxy.dns.pods import PodMode
from uproxy.dns.responder import Deferred, Responder
from uproxy.dns.stats import DnsStats
from uproxy.dns.wire import from_text
from uproxy.dns.zone import Zone
from uproxy.model.endpoint import Endpoint, EndpointSlice, Origin, SlicePort
from uproxy.model.events import Delete, Upsert
from uproxy.model.names import NamespacedName, Protocol
from uproxy.model.service import Service, ServicePort, ServiceType
from uproxy.state.addresses import AddressPlan
from uproxy.state.store import Store

NODE = AddressPlan(ip_network("172.30.0.0/16"), loopback_only=False)
TCP, UDP = Protocol.TCP, Protocol.UDP
CLIENT = "10.0.0.9"


def key(text: str) -> NamespacedName:
    """`web` is `default/web`."""
    namespace, _, name = text.rpartition("/")
    return NamespacedName(namespace or "default", name)


def port(text: str) -> ServicePort:
    """`http:80`, `dns:53/UDP`, `:80`."""
    head, _, protocol = text.partition("/")
    name, _, number = head.partition(":")
    return ServicePort(name, Protocol(protocol or "TCP"), int(number), int(number))


def service(name: str, *ports: str, ips: str = "", **more) -> Service:
    addresses = tuple(ip_address(ip) for ip in ips.split())
    return Service(key(name), tuple(port(text) for text in ports), cluster_ips=addresses, **more)


def headless(name: str, *ports: str, **more) -> Service:
    return service(name, *ports, headless=True, **more)


def external(name: str, target: str) -> Service:
    return service(name, type=ServiceType.EXTERNAL_NAME, external_name=target)


def endpoint(text: str) -> Endpoint:
    """`10.0.0.1`, `db-0@10.0.0.1`, `10.0.0.1!` when it is not ready."""
    hostname, _, ip = text.rstrip("!").rpartition("@")
    ready = not text.endswith("!")
    return Endpoint(ip_address(ip), ready=ready, serving=ready, hostname=hostname)


def piece(of: str, *endpoints: str, ports: str = "", name: str = "", origin=Origin.ENDPOINT_SLICE):
    home = key(of)
    numbers = (port(text) for text in ports.split())
    return EndpointSlice(
        NamespacedName(home.namespace, name or f"{home.name}-1"),
        home,
        tuple(SlicePort(each.name, each.protocol, each.port) for each in numbers),
        tuple(endpoint(text) for text in endpoints),
        origin,
    )


class Server:
    """A zone and a responder, fed as the reconcile loop feeds them."""

    def __init__(
        self, *objects, domain="cluster.local", pods=PodMode.INSECURE, plan=NODE, servers=(), ready=True
    ) -> None:
        self.store = Store(plan)
        self.zone = Zone(from_text(domain), pods, [ip_address(ip) for ip in servers])
        self.stats = DnsStats()
        self.responder = Responder(self.zone, self.stats)
        self.responder.ready = ready
        self.upsert(*objects)

    def upsert(self, *objects) -> None:
        self.apply([Upsert(each) for each in objects])

    def delete(self, *objects) -> None:
        self.apply([Delete(each) for each in objects])

    def apply(self, events) -> None:
        self.zone.apply(events, self.store.apply(events))

    def with_upstream(self) -> "Server":
        self.responder.lead_upstream(LoopGuard(b"0123"), ())
        return self

    def send(self, packet: bytes, *, client: str = CLIENT, udp: bool = True) -> bytes | Deferred | None:
        return self.responder.respond(packet, client, udp=udp)

    def ask(self, name: str, kind: str = "A", *, udp: bool = False, edns: bool = False, **query):
        """What dnspython reads in the answer; by TCP when size does not matter."""
        asked = dns.message.make_query(name, kind, use_edns=edns, **query)
        answer = self.send(asked.to_wire(), udp=udp)
        assert isinstance(answer, bytes), answer
        read = dns.message.from_wire(answer)
        assert asked.is_response(read)
        return read

    def answer(self, name: str, kind: str = "A") -> tuple[str, list[str]]:
        """Rcode, and the records in a comparable order."""
        read = self.ask(name, kind)
        return dns.rcode.to_text(read.rcode()), lines(read.answer)


def lines(section) -> list[str]:
    """`web.default.svc.cluster.local. 5 A 172.30.0.1`."""
    return sorted(
        f"{rrset.name} {rrset.ttl} {dns.rdatatype.to_text(rrset.rdtype)} {rdata}"
        for rrset in section
        for rdata in rrset
    )
