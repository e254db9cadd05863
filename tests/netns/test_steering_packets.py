"""Where packets end up: every kind of VIP, from the node and from outside, with both mechanisms."""

import asyncio
import errno
import select
import socket
import struct
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import TypeVar

import pytest

from uproxy.app.carriers import routes_beside_redirect
from uproxy.kit.lab import Host, Lab
from uproxy.kit.netfilter import PROXY_MARK
from uproxy.model.frontend import Backend, Changes, DesiredServicePort, Frontend, FrontendKind
from uproxy.model.names import Family, IPNetwork, Protocol, ServicePortName, Vip
from uproxy.steering.landing import LANDING
from uproxy.steering.probe import Mechanism
from uproxy.steering.routes import LocalRoutes
from uproxy.steering.rules import RedirectPorts
from uproxy.steering.target import SteeringRules, steering_rules

T = TypeVar("T")
PORTS = RedirectPorts(15001, 15006)
CLUSTER_IP: dict[Family, str] = {4: "172.30.0.1", 6: "fd00:172:30::1"}
ANY: dict[Family, str] = {4: "0.0.0.0", 6: "::"}
LOOPBACK: dict[Family, str] = {4: "127.0.0.1", 6: "::1"}
AF: dict[Family, socket.AddressFamily] = {4: socket.AF_INET, 6: socket.AF_INET6}
BACKEND: dict[Family, Backend] = {
    4: Backend(ip_address("10.244.0.11"), 8080),
    6: Backend(ip_address("fd00:10:244::11"), 8080),
}
CLIENT_PORT = 20_000
TIMEOUT_S = 5
FIREWALL = """\
table inet firewall {
	chain input {
		type filter hook input priority 0; policy drop;
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
		ct state established accept
		ct status dnat accept
	}
}
"""
SILENT_FOR_S = 1
SILENCE = (errno.EAGAIN, errno.ETIMEDOUT)
OTHERS: dict[Family, str] = {4: "203.0.113.0/24", 6: "2001:db8::/32"}
IPV6_FREEBIND = 78
"""Binding an IPv6 address asks for one of an interface, where for IPv4 a local route will do."""


@dataclass
class Node:
    """The node under test, with the targets that the app would give it."""

    lab: Lab
    rules: SteeringRules
    routes: LocalRoutes

    def run(self, work: Callable[[], Coroutine[object, object, T]]) -> T:
        return self.lab.node.inside(lambda: asyncio.run(work()))

    def make(self, *updated: DesiredServicePort) -> None:
        changes = Changes(updated=updated)

        async def work() -> None:
            assert await self.routes.make(changes) == {}
            assert await self.rules.make(changes) == {}
            await self.rules.retire(changes)
            await self.routes.retire(changes)

        self.run(work)

    async def close(self) -> None:
        await self.rules.close()
        await self.routes.close()


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(pods=1) as lab:
        yield lab


@pytest.fixture(params=["nft", "iptables"])
def node(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Node]:
    mechanism = Mechanism(request.param)
    rules = lab.node.inside(lambda: steering_rules(mechanism, PORTS))
    node = Node(lab, rules, LocalRoutes(routes_beside_redirect))
    yield node
    node.run(node.close)


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> Family:
    found: Family = request.param
    return found


@pytest.fixture(params=["client", "node"])
def source(lab: Lab, request: pytest.FixtureRequest) -> Host:
    return lab.client if request.param == "client" else lab.node


@pytest.fixture
def listener(lab: Lab, family: Family) -> Iterator[socket.socket]:
    with _listen(lab.node, family, ANY[family], PORTS.of(family)) as listener:
        yield listener


def _listen(host: Host, family: Family, address: str, port: int) -> socket.socket:
    listener = host.socket(AF[family])
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == 6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
    listener.settimeout(TIMEOUT_S)
    listener.bind((address, port))
    listener.listen()
    return listener


def _service(
    address: str, port: int, *, protocol: Protocol = Protocol.TCP, backends: bool = True, name: str = "web"
) -> DesiredServicePort:
    ip = ip_address(address)
    kind = FrontendKind.NODE_PORT if ip.is_unspecified else FrontendKind.CLUSTER_IP
    return DesiredServicePort(
        name=ServicePortName("default", name, "", protocol),
        port=port,
        frontends=(Frontend(Vip(ip, port, protocol), kind, ip.version),),
        endpoints={},
        usable={ip.version: (BACKEND[ip.version],)} if backends else {},
    )


def _landing_only(_port: DesiredServicePort, frontend: Frontend) -> list[IPNetwork]:
    return [LANDING[frontend.vip.family].network]


def _socket(host: Host, family: Family, type: int = socket.SOCK_STREAM) -> socket.socket:
    sock = host.socket(AF[family], type)
    sock.settimeout(TIMEOUT_S)
    return sock


def _connect(host: Host, family: Family, address: str, port: int) -> int:
    """The errno of a connect; 0 for a connection, which is closed again."""
    with _socket(host, family) as sock:
        return sock.connect_ex((address, port))


def _send_datagram(host: Host, family: Family, address: str, port: int) -> int:
    """The errno that a connected UDP socket sees for one datagram, within the timeout."""
    with _socket(host, family, socket.SOCK_DGRAM) as sock:
        sock.connect((address, port))
        try:
            sock.send(b"query")
            sock.recv(1)
        except OSError as error:
            return error.errno or 0
    return 0


def _original_destination(sock: socket.socket, family: Family) -> tuple[str, int]:
    if family == 4:
        raw = sock.getsockopt(socket.IPPROTO_IP, 80, 16)
        return socket.inet_ntop(socket.AF_INET, raw[4:8]), struct.unpack_from("!H", raw, 2)[0]
    raw = sock.getsockopt(socket.IPPROTO_IPV6, 80, 28)
    return socket.inet_ntop(socket.AF_INET6, raw[8:24]), struct.unpack_from("!H", raw, 2)[0]


def test_connection_arrives_with_its_destination(
    node: Node, family: Family, source: Host, listener: socket.socket
) -> None:
    node.make(_service(CLUSTER_IP[family], 80))
    with _socket(source, family) as sock:
        sock.connect((CLUSTER_IP[family], 80))
        accepted, _ = listener.accept()
        with accepted:
            assert _original_destination(accepted, family) == (CLUSTER_IP[family], 80)
            accepted.sendall(b"answer")
            assert sock.recv(16) == b"answer"


def test_another_owner_of_the_address_comes_second(
    node: Node, family: Family, source: Host, listener: socket.socket
) -> None:
    program = "iptables" if family == 4 else "ip6tables"
    target = "127.0.0.9:9" if family == 4 else "[::1]:9"
    dnat = f"-d {CLUSTER_IP[family]} -p tcp --dport 80 -j DNAT --to-destination {target}"
    for chain in ("PREROUTING", "OUTPUT"):
        node.lab.node.run(program, "-t", "nat", "-A", chain, *dnat.split())
    try:
        node.make(_service(CLUSTER_IP[family], 80))
        assert _connect(source, family, CLUSTER_IP[family], 80) == 0
        listener.accept()[0].close()
    finally:
        for chain in ("PREROUTING", "OUTPUT"):
            node.lab.node.run(program, "-t", "nat", "-D", chain, *dnat.split())


def test_node_port_arrives_on_every_address_of_the_node_but_loopback(
    node: Node, family: Family, source: Host, listener: socket.socket
) -> None:
    node.make(_service(ANY[family], 30080))
    addresses = [node.lab.node.ip4, "10.244.0.1"] if family == 4 else [node.lab.node.ip6, "fd00:10:244::1"]
    for address in addresses:
        with _socket(source, family) as sock:
            sock.connect((address, 30080))
            accepted, _ = listener.accept()
            with accepted:
                assert _original_destination(accepted, family) == (address, 30080)


def test_node_port_on_loopback_belongs_to_whoever_listens_there(node: Node, family: Family) -> None:
    node.make(_service(ANY[family], 30080))
    assert _connect(node.lab.node, family, LOOPBACK[family], 30080) == errno.ECONNREFUSED
    with _listen(node.lab.node, family, LOOPBACK[family], 30080) as own:
        assert _connect(node.lab.node, family, LOOPBACK[family], 30080) == 0
        own.accept()[0].close()


@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
def test_vip_without_endpoints_is_refused(
    node: Node, family: Family, source: Host, protocol: Protocol
) -> None:
    node.make(_service(CLUSTER_IP[family], 80, protocol=protocol, backends=False))
    ask = _connect if protocol is Protocol.TCP else _send_datagram
    assert ask(source, family, CLUSTER_IP[family], 80) == errno.ECONNREFUSED


@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
def test_node_port_without_endpoints_is_refused_though_something_listens(
    node: Node, family: Family, source: Host, protocol: Protocol
) -> None:
    node.make(_service(ANY[family], 30080, protocol=protocol, backends=False))
    address = node.lab.node.ip4 if family == 4 else node.lab.node.ip6
    with _socket(node.lab.node, family) as tcp, _socket(node.lab.node, family, socket.SOCK_DGRAM) as udp:
        tcp.bind((address, 30080))
        tcp.listen()
        udp.bind((address, 30080))
        ask = _connect if protocol is Protocol.TCP else _send_datagram
        assert ask(source, family, address, 30080) == errno.ECONNREFUSED


@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
def test_forwarded_traffic_for_a_vip_without_endpoints_is_refused(
    node: Node, family: Family, protocol: Protocol
) -> None:
    """An external address has no local route, so the node would send it on."""
    elsewhere = node.lab.pods[0].ip4 if family == 4 else node.lab.pods[0].ip6
    external = _service(elsewhere, 80, protocol=protocol, backends=False)
    node.routes = LocalRoutes(_landing_only)
    node.make(external)
    ask = _connect if protocol is Protocol.TCP else _send_datagram
    assert ask(node.lab.client, family, elsewhere, 80) == errno.ECONNREFUSED


@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
def test_source_ranges_hold_while_there_is_no_endpoint(
    node: Node, family: Family, protocol: Protocol
) -> None:
    """Who may not come is not told that there is nobody; who may is refused."""
    external = node.lab.pods[0].ip4 if family == 4 else node.lab.pods[0].ip6
    client = node.lab.client.ip4 if family == 4 else node.lab.client.ip6
    made = _service(external, 80, protocol=protocol, backends=False)
    node.routes = LocalRoutes(_landing_only)
    ask = _connect if protocol is Protocol.TCP else _send_datagram
    for allowed, expected in ((OTHERS[family], 0), (client, errno.ECONNREFUSED)):
        ranges = (ip_network(allowed),)
        frontend = replace(made.frontends[0], kind=FrontendKind.LOAD_BALANCER, allowed=ranges)
        node.make(replace(made, frontends=(frontend,)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(f"{__name__}.TIMEOUT_S", TIMEOUT_S if expected else SILENT_FOR_S)
            found = ask(node.lab.client, family, external, 80)
        assert found == expected or (not expected and found in SILENCE)


def test_connection_outlives_the_last_endpoint_and_new_ones_are_refused(
    node: Node, family: Family, source: Host, listener: socket.socket
) -> None:
    node.make(_service(CLUSTER_IP[family], 80))
    with _socket(source, family) as sock:
        sock.connect((CLUSTER_IP[family], 80))
        accepted, _ = listener.accept()
        with accepted:
            accepted.settimeout(TIMEOUT_S)
            node.make(_service(CLUSTER_IP[family], 80, backends=False))
            assert _connect(source, family, CLUSTER_IP[family], 80) == errno.ECONNREFUSED
            sock.sendall(b"question")
            assert accepted.recv(16) == b"question"
            accepted.sendall(b"answer")
            assert sock.recv(16) == b"answer"
    node.make(_service(CLUSTER_IP[family], 80))
    assert _connect(source, family, CLUSTER_IP[family], 80) == 0


def test_marked_traffic_is_neither_redirected_nor_refused(node: Node, family: Family) -> None:
    pod = node.lab.pods[0]
    address = pod.ip4 if family == 4 else pod.ip6
    node.routes = LocalRoutes(_landing_only)
    node.make(_service(address, 80), _service(address, 81, backends=False, name="down"))
    for port in (80, 81):
        with _listen(pod, family, address, port), _socket(node.lab.node, family) as sock:
            assert _connect(node.lab.node, family, address, port) == errno.ECONNREFUSED
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, PROXY_MARK)
            assert sock.connect_ex((address, port)) == 0


def test_marks_that_only_share_bits_are_redirected(
    node: Node, family: Family, listener: socket.socket
) -> None:
    node.make(_service(CLUSTER_IP[family], 80))
    with _socket(node.lab.node, family) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, PROXY_MARK | 0x10000)
        sock.connect((CLUSTER_IP[family], 80))
        assert select.select([listener], [], [], TIMEOUT_S)[0]


def test_redirect_port_itself_is_refused(
    node: Node, family: Family, source: Host, listener: socket.socket
) -> None:
    node.make(_service(CLUSTER_IP[family], 80))
    address = node.lab.node.ip4 if family == 4 else node.lab.node.ip6
    assert _connect(source, family, address, PORTS.of(family)) == errno.ECONNREFUSED
    assert not select.select([listener], [], [], 0)[0]


def test_addresses_that_connections_are_led_to_are_nobodys(
    node: Node, family: Family, source: Host, listener: socket.socket
) -> None:
    node.make(_service(CLUSTER_IP[family], 80), _service(ANY[family], 30080, name="ports"))
    with _listen(node.lab.node, family, ANY[family], 81):
        for address in (LANDING[family].first, LANDING[family].network[-1]):
            for port in (81, 30080, PORTS.of(family)):
                assert _connect(source, family, str(address), port) == errno.ECONNREFUSED
            assert _send_datagram(source, family, str(address), 81) == errno.ECONNREFUSED
    assert not select.select([listener], [], [], 0)[0]


def test_node_port_that_is_the_listeners_own_arrives(
    node: Node, family: Family, source: Host, listener: socket.socket
) -> None:
    """What is not translated is refused there, so it has to be told apart."""
    address, port = node.lab.node.ip4 if family == 4 else node.lab.node.ip6, PORTS.of(family)
    node.make(_service(ANY[family], port))
    assert _connect(source, family, address, port) == 0
    with listener.accept()[0] as accepted:
        assert _original_destination(accepted, family) == (address, port)


def test_connections_from_one_port_to_many_services_keep_it(node: Node) -> None:
    """Of IPv4 there are too few addresses to say so of every pair of Services."""
    vips = [f"fd00:172:30::{number}" for number in range(1, 9)]
    node.make(*(_service(vip, 80, name=f"web{number}") for number, vip in enumerate(vips)))
    with ExitStack() as stack:
        listener = stack.enter_context(_listen(node.lab.node, 6, ANY[6], PORTS.ipv6))
        for vip in vips:
            sock = stack.enter_context(_socket(node.lab.client, 6))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", CLIENT_PORT))
            sock.connect((vip, 80))
            accepted, peer = listener.accept()
            stack.enter_context(accepted)
            assert peer[1] == CLIENT_PORT


def test_a_firewall_that_lets_in_what_is_translated_lets_connections_in(
    node: Node, family: Family, source: Host, listener: socket.socket
) -> None:
    """What README tells those to do who drop what they do not know."""
    node.make(_service(CLUSTER_IP[family], 80))
    node.lab.node.run("nft", "-f", "-", input=FIREWALL)
    try:
        assert _connect(source, family, CLUSTER_IP[family], 80) == 0
        listener.accept()[0].close()
    finally:
        node.lab.node.run("nft", "delete", "table", "inet", "firewall")


def test_other_ports_of_a_cluster_ip_are_refused(
    node: Node, family: Family, source: Host, listener: socket.socket
) -> None:
    """Whoever listens there: it is not him that the Service's clients want."""
    ip = CLUSTER_IP[family]
    node.make(_service(ip, 80))
    with _listen(node.lab.node, family, ANY[family], 81):
        assert _connect(source, family, ip, 81) == errno.ECONNREFUSED
        assert _send_datagram(source, family, ip, 81) == errno.ECONNREFUSED
        node.make(_service(ip, 53, protocol=Protocol.UDP, name="dns"))
        assert _connect(source, family, ip, 53) == errno.ECONNREFUSED
        assert _connect(source, family, ip, 80) == 0
        listener.accept()[0].close()


def test_node_ports_are_not_on_cluster_ips(
    node: Node, family: Family, source: Host, listener: socket.socket
) -> None:
    ip = CLUSTER_IP[family]
    node.make(_service(ip, 80), _service(ANY[family], 30080, name="ports"))
    assert _connect(source, family, ip, 30080) == errno.ECONNREFUSED
    assert not select.select([listener], [], [], 0)[0]


def test_the_node_hears_answers_at_a_cluster_ip_that_it_has_as_its_source(node: Node, family: Family) -> None:
    """Of a local route, the kernel takes the destination for the source too."""
    ip = CLUSTER_IP[family]
    node.make(_service(ip, 80))
    with (
        _listen(node.lab.node, family, ANY[family], 8081),
        _socket(node.lab.node, family) as sock,
    ):
        if family == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
        sock.bind((ip, 0))
        own = node.lab.node.ip4 if family == 4 else node.lab.node.ip6
        assert sock.connect_ex((own, 8081)) == 0


def test_other_ports_of_other_addresses_are_left_alone(node: Node, family: Family) -> None:
    own = node.lab.node.ip4 if family == 4 else node.lab.node.ip6
    vip = Vip(ip_address(own), 80, Protocol.TCP)
    node.make(replace(_service(own, 80), frontends=(Frontend(vip, FrontendKind.EXTERNAL_IP, family),)))
    with _listen(node.lab.node, family, own, 81):
        assert _connect(node.lab.client, family, own, 81) == 0


def test_outgoing_connection_from_a_refused_node_port_gets_its_replies(node: Node, family: Family) -> None:
    node.make(_service(ANY[family], 30080, backends=False))
    pod = node.lab.pods[0]
    address = pod.ip4 if family == 4 else pod.ip6
    with _listen(pod, family, address, 8080), _socket(node.lab.node, family) as sock:
        sock.bind((ANY[family], 30080))
        assert sock.connect_ex((address, 8080)) == 0


def test_datagram_reaches_the_socket_bound_to_its_vip(node: Node, family: Family, source: Host) -> None:
    node.make(_service(CLUSTER_IP[family], 53, protocol=Protocol.UDP))
    with (
        _socket(node.lab.node, family, socket.SOCK_DGRAM) as server,
        _socket(source, family, socket.SOCK_DGRAM) as sock,
    ):
        if family == 6:
            server.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
        server.bind((CLUSTER_IP[family], 53))
        sock.connect((CLUSTER_IP[family], 53))
        sock.send(b"query")
        data, peer = server.recvfrom(16)
        server.sendto(data.upper(), peer)
        assert sock.recv(16) == b"QUERY"
