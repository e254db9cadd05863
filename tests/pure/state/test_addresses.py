"""Which addresses Services are served on."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from uproxy.errors import AddressesExhausted
from uproxy.model.frontend import Backend, FrontendKind
from uproxy.model.names import NamespacedName, Protocol, ServicePortName, Vip
from uproxy.model.service import Service, ServicePort, ServiceType
from uproxy.state.addresses import AddressPlan, Claims, ClusterIPAllocator, cluster_frontends, frontends

WEB = NamespacedName("default", "web")
HTTP = ServicePort("http", Protocol.TCP, 80, 8080, node_port=30080)
NODE = AddressPlan(ip_network("10.96.0.0/16"), loopback_only=False)
CLUSTER = replace(NODE, shared=True)
LAPTOP = AddressPlan(ip_network("127.96.0.0/16"), loopback_only=True)


class TestAllocation:
    def test_the_same_name_gets_the_same_address_in_every_run(self):
        network = ip_network("10.96.0.0/16")
        assert ClusterIPAllocator(network).allocate(WEB) == ClusterIPAllocator(network).allocate(WEB)
        assert ClusterIPAllocator(network).allocate(WEB) == ip_address("10.96.62.203")

    def test_nobody_shares_an_address(self):
        allocator = ClusterIPAllocator(ip_network("10.96.0.0/24"))
        given = {allocator.allocate(NamespacedName("default", f"s{n}")) for n in range(254)}
        assert len(given) == 254
        assert ip_address("10.96.0.0") not in given
        assert ip_address("10.96.0.255") not in given

    def test_a_full_network_says_so(self):
        allocator = ClusterIPAllocator(ip_network("10.96.0.0/30"))
        for name in "ab":
            allocator.allocate(NamespacedName("default", name))
        with pytest.raises(AddressesExhausted, match=r"10\.96\.0\.0/30"):
            allocator.allocate(WEB)

    def test_one_address_is_a_network_too(self):
        assert ClusterIPAllocator(ip_network("10.96.0.7/32")).allocate(WEB) == ip_address("10.96.0.7")

    def test_an_address_that_a_manifest_names_is_not_given_away(self):
        allocator = ClusterIPAllocator(ip_network("10.96.0.0/16"))
        mine = allocator.allocate(WEB)
        assert allocator.reserve(mine) == WEB
        assert allocator.allocate(WEB) != mine

    def test_a_released_address_is_free_again(self):
        allocator = ClusterIPAllocator(ip_network("10.96.0.7/32"))
        allocator.allocate(WEB)
        allocator.release(WEB)
        assert allocator.allocate(NamespacedName("default", "other")) == ip_address("10.96.0.7")


def served(service: Service, plan: AddressPlan) -> tuple[list[str], list[str]]:
    allocator = ClusterIPAllocator(plan.service_cidr)
    cluster = cluster_frontends(service, plan, allocator.allocate)
    found, notes = frontends(service, service.ports[0], cluster, plan)
    return [f"{frontend.kind} {frontend.vip} v{frontend.family}" for frontend in found], notes


OWN = ip_address("10.200.0.1")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("127.0.0.1", "a loopback address"),
        ("::1", "a loopback address"),
        ("0.0.0.0", "an unspecified address"),
        ("::", "an unspecified address"),
        ("224.0.0.1", "a multicast address"),
        ("255.255.255.255", "a multicast address"),
        ("169.254.169.254", "a link-local address"),
        ("fe80::1", "a link-local address"),
        ("10.200.0.1", "the node's own address"),
    ],
)
def test_what_is_nobodys_or_the_nodes_own_is_no_cluster_ip_and_the_other_family_is_served(text, why):
    odd = ip_address(text)
    other = ip_address("fd00::10" if odd.version == 4 else "10.96.0.10")
    service = Service(WEB, (ServicePort("", Protocol.TCP, 80, 80),), cluster_ips=(odd, other))
    cluster = cluster_frontends(service, NODE, ClusterIPAllocator(NODE.service_cidr).allocate)
    found, notes = frontends(service, service.ports[0], cluster, CLUSTER, own={OWN})
    assert [frontend.vip.ip for frontend in found] == [other]
    assert notes == [f"cluster IP {odd} is not served: it is {why}"]


@pytest.mark.parametrize("text", ["127.0.0.1", "0.0.0.0", "224.0.0.1", "169.254.169.254", "::1", "::"])
@pytest.mark.parametrize("field", ["external_ips", "load_balancer_ips"])
def test_neither_is_it_an_address_for_others(text, field):
    service = Service(WEB, (ServicePort("", Protocol.TCP, 80, 80),), **{field: (ip_address(text),)})
    found, notes = frontends(service, service.ports[0], [], CLUSTER)
    assert not found
    assert f"{text} is not served" in notes[0]


def test_on_a_machine_of_ones_own_loopback_addresses_are_as_good_as_any():
    service = Service(WEB, (HTTP,), cluster_ips=(ip_address("127.0.0.1"),))
    assert served(service, NODE) == (["ClusterIP 127.0.0.1:80/TCP v4"], [])


def test_every_kind_of_address_is_served():
    service = Service(
        WEB,
        (HTTP,),
        ServiceType.LOAD_BALANCER,
        cluster_ips=(ip_address("10.96.0.1"), ip_address("fd00:10:96::1")),
        external_ips=(ip_address("203.0.113.1"),),
        load_balancer_ips=(ip_address("203.0.113.2"),),
    )
    assert served(service, NODE) == (
        [
            "ClusterIP 10.96.0.1:80/TCP v4",
            "ClusterIP [fd00:10:96::1]:80/TCP v6",
            "ExternalIP 203.0.113.1:80/TCP v4",
            "LoadBalancer 203.0.113.2:80/TCP v4",
            "NodePort 0.0.0.0:30080/TCP v4",
            "NodePort [::]:30080/TCP v6",
        ],
        [],
    )


def test_without_root_addresses_get_a_stand_in_or_a_note():
    service = Service(
        WEB, (HTTP,), cluster_ips=(ip_address("10.96.0.1"),), external_ips=(ip_address("203.0.113.1"),)
    )
    addresses, notes = served(service, LAPTOP)
    assert addresses == ["ClusterIP 127.96.62.203:80/TCP v4"]
    assert notes == ["ExternalIP 203.0.113.1 is not served: without root only loopback addresses can be"]


def test_a_stand_in_for_an_ipv6_address_leads_to_ipv6_endpoints():
    service = Service(WEB, (HTTP,), cluster_ips=(ip_address("fd00:10:96::1"),))
    assert served(service, LAPTOP)[0] == ["ClusterIP 127.96.62.203:80/TCP v6"]


def test_loopback_addresses_in_a_manifest_are_kept_without_root():
    service = Service(WEB, (HTTP,), cluster_ips=(ip_address("127.0.0.10"),))
    assert served(service, LAPTOP)[0] == ["ClusterIP 127.0.0.10:80/TCP v4"]


def test_ports_that_may_not_be_listened_on_get_a_stand_in():
    plan = AddressPlan(ip_network("127.96.0.0/16"), loopback_only=True, first_port=1024)
    service = Service(WEB, (HTTP,), ServiceType.NODE_PORT)
    assert served(service, plan)[0] == [
        "ClusterIP 127.96.62.203:8080/TCP v4",
        "NodePort 0.0.0.0:30080/TCP v4",
    ]


def test_a_cluster_ip_service_has_no_node_port():
    assert [kind for kind in served(Service(WEB, (HTTP,)), NODE)[0] if FrontendKind.NODE_PORT in kind] == []


class TestClaims:
    vip = Vip(ip_address("10.96.0.1"), 80, Protocol.TCP)
    first = ServicePortName("default", "a", "", Protocol.TCP)
    second = ServicePortName("default", "b", "", Protocol.TCP)

    def test_the_first_keeps_it(self):
        claims = Claims()
        assert claims.claim(self.vip, self.first) is None
        assert claims.claim(self.vip, self.second) == self.first
        assert claims.claim(self.vip, self.first) is None

    def test_who_lost_is_told_when_it_comes_free(self):
        claims = Claims()
        claims.claim(self.vip, self.first)
        claims.claim(self.vip, self.second)
        assert claims.release(self.vip, self.second) == set()
        assert claims.release(self.vip, self.first) == {self.second.service}
        assert claims.claim(self.vip, self.second) is None

    def test_endpoints_that_are_claimed_are_loops(self):
        claims = Claims()
        claims.claim(self.vip, self.first)
        claims.claim(Vip(ip_address("0.0.0.0"), 30080, Protocol.TCP), self.first)
        own, other = Backend(self.vip.ip, 80), Backend(self.vip.ip, 81)
        node_port, elsewhere = Backend(ip_address("127.0.0.1"), 30080), Backend(ip_address("10.0.0.1"), 30080)
        backends = dict.fromkeys((node_port, other, elsewhere, own)).keys()
        assert claims.loops(backends, Protocol.TCP) == [node_port, own]
        assert claims.loops(backends, Protocol.UDP) == []
        claims.release(self.vip, self.first)
        assert claims.loops(backends, Protocol.TCP) == [node_port]
