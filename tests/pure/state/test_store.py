"""Objects in, desired state out: the same state whatever the order, and no work for nothing."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uproxy.model.endpoint import Endpoint, EndpointSlice, Origin, Pod, SlicePort
from uproxy.model.events import Delete, Resolved, Upsert
from uproxy.model.frontend import Changes, Treatment
from uproxy.model.names import NamespacedName, Protocol, ServicePortName
from uproxy.model.options import Options
from uproxy.model.service import Service, ServicePort, ServiceType
from uproxy.state.addresses import AddressPlan
from uproxy.state.store import Store

NODE = AddressPlan(ip_network("10.96.0.0/16"), loopback_only=False)
TCP = Protocol.TCP


def store() -> Store:
    return Store(NODE)


def service(name: str = "web", ip: str | None = "10.96.0.1", **changes) -> Service:
    fields = {
        "key": NamespacedName("default", name),
        "ports": (ServicePort("", TCP, 80, 8080),),
        "cluster_ips": (ip_address(ip),) if ip else (),
    }
    return Service(**fields | changes)


def piece(
    name: str = "web-1", of: str = "web", hosts=("10.244.0.1",), origin=Origin.ENDPOINT_SLICE
) -> EndpointSlice:
    endpoints = tuple(Endpoint(ip_address(h) if h[0].isdigit() else h) for h in hosts)
    key, owner = NamespacedName("default", name), NamespacedName("default", of)
    return EndpointSlice(key, owner, (SlicePort("", TCP, 8080),), endpoints, origin)


def name(of: str = "web", port: str = "", protocol: Protocol = TCP) -> ServicePortName:
    return ServicePortName("default", of, port, protocol)


def backends(made: Store, of: str = "web") -> list[str]:
    return [str(backend) for backend in made.desired[name(of)].usable.get(4, ())]


def vips(made: Store, of: str = "web") -> list[str]:
    return [str(frontend.vip) for frontend in made.desired[name(of)].frontends]


def test_a_service_and_its_slice_become_a_service_port():
    made = store()
    changes = made.apply([Upsert(service()), Upsert(piece())])
    assert [desired.name for desired in changes.updated] == [name()]
    assert vips(made) == ["10.96.0.1:80/TCP"]
    assert backends(made) == ["10.244.0.1:8080"]


def test_the_same_again_changes_nothing():
    made = store()
    made.apply([Upsert(service()), Upsert(piece())])
    assert made.apply([Upsert(service()), Upsert(piece())]) == Changes()


def test_only_the_touched_service_is_rebuilt():
    made = store()
    made.apply([Upsert(service(f"s{n}", f"10.96.0.{n}")) for n in range(1, 100)])
    changes = made.apply([Upsert(piece(of="s7"))])
    assert [desired.name for desired in changes.updated] == [name("s7")]


def test_a_deleted_service_is_removed():
    made = store()
    made.apply([Upsert(service()), Upsert(piece())])
    assert made.apply([Delete(service())]) == Changes(removed=(name(),))
    assert made.desired == {}


def test_removed_and_back_within_one_batch_is_an_update():
    made = store()
    made.apply([Upsert(service()), Upsert(piece())])
    assert made.apply([Delete(service()), Upsert(service())]) == Changes()


def test_a_port_that_goes_is_removed_alone():
    two = (ServicePort("a", TCP, 80, 80), ServicePort("b", TCP, 81, 81))
    made = store()
    made.apply([Upsert(service(ports=two))])
    changes = made.apply([Upsert(service(ports=two[:1]))])
    assert changes == Changes(removed=(name(port="b"),))


@pytest.mark.parametrize(
    "ignored",
    [
        pytest.param({"headless": True, "cluster_ips": ()}, id="headless"),
        pytest.param({"proxy_name": "other"}, id="another proxy's"),
        pytest.param(
            {"type": ServiceType.EXTERNAL_NAME, "external_name": "db.example.com"}, id="a name only"
        ),
    ],
)
def test_services_that_are_not_ours_are_not_served(ignored):
    made = store()
    assert made.apply([Upsert(service(**ignored)), Upsert(piece())]) == Changes()
    made.apply([Upsert(service())])
    assert vips(made) == ["10.96.0.1:80/TCP"]
    assert made.apply([Upsert(service(**ignored))]).removed == (name(),)


def test_a_slice_that_changes_its_service_leaves_the_old_one():
    made = store()
    made.apply([Upsert(service()), Upsert(service("api", "10.96.0.2")), Upsert(piece())])
    made.apply([Upsert(piece(of="api"))])
    assert backends(made) == []
    assert backends(made, "api") == ["10.244.0.1:8080"]


class TestAddresses:
    def test_a_service_without_an_address_gets_one_and_keeps_it(self):
        made = store()
        made.apply([Upsert(service(ip=None))])
        before = vips(made)
        made.apply([Upsert(service("another", None)), Upsert(piece())])
        assert vips(made) == before == ["10.96.62.203:80/TCP"]

    def test_an_address_that_a_manifest_names_later_is_given_up(self):
        made = store()
        made.apply([Upsert(service(ip=None))])
        made.apply([Upsert(service("rich", "10.96.62.203"))])
        assert vips(made, "rich") == ["10.96.62.203:80/TCP"]
        assert vips(made) not in ([], ["10.96.62.203:80/TCP"])

    def test_two_services_with_one_address(self):
        made = store()
        made.apply([Upsert(service("a")), Upsert(service("b"))])
        assert vips(made, "a") == ["10.96.0.1:80/TCP"]
        assert made.desired[name("b")].frontends == ()
        assert made.desired[name("b")].notes == ("10.96.0.1:80/TCP belongs to default/a/TCP already",)

    def test_the_second_gets_it_when_the_first_goes(self):
        made = store()
        made.apply([Upsert(service("a")), Upsert(service("b"))])
        changes = made.apply([Delete(service("a"))])
        assert vips(made, "b") == ["10.96.0.1:80/TCP"]
        assert {desired.name for desired in changes.updated} == {name("b")}

    def test_one_port_on_two_protocols_is_no_conflict(self):
        ports = (ServicePort("t", TCP, 53, 53), ServicePort("u", Protocol.UDP, 53, 53))
        made = store()
        made.apply([Upsert(service(ports=ports))])
        assert all(not desired.notes for desired in made.desired.values())

    def test_sctp_is_said_not_to_be_relayed(self):
        made = store()
        made.apply([Upsert(service(ports=(ServicePort("", Protocol.SCTP, 80, 80),)))])
        [desired] = made.desired.values()
        assert desired.frontends == ()
        assert desired.notes == ("SCTP is not relayed",)


class TestLoops:
    def test_a_service_is_not_its_own_endpoint(self):
        made = store()
        own = EndpointSlice(
            NamespacedName("default", "web-1"),
            NamespacedName("default", "web"),
            (SlicePort("", TCP, 80),),
            (Endpoint(ip_address("10.96.0.1")), Endpoint(ip_address("10.244.0.1"))),
        )
        made.apply([Upsert(service()), Upsert(own)])
        assert backends(made) == ["10.244.0.1:80"]
        assert made.desired[name()].notes == ("10.96.0.1:80 is a Service's address and no endpoint",)

    @pytest.mark.parametrize("first", ["a", "b"])
    def test_two_services_do_not_send_each_other_in_circles(self, first):
        def towards(of: str, ip: str) -> list[Upsert]:
            owner = NamespacedName("default", of)
            ports, endpoints = (SlicePort("", TCP, 80),), (Endpoint(ip_address(ip)),)
            mine = service(of, {"a": "10.96.0.1", "b": "10.96.0.2"}[of])
            return [Upsert(mine), Upsert(EndpointSlice(owner, owner, ports, endpoints))]

        made = store()
        events = {"a": towards("a", "10.96.0.2"), "b": towards("b", "10.96.0.1")}
        made.apply(events[first])
        made.apply(events["b" if first == "a" else "a"])
        assert [] in (backends(made, "a"), backends(made, "b"))


class TestHosts:
    def test_host_names_are_wanted_while_they_are_used(self):
        made = store()
        made.apply([Upsert(service()), Upsert(piece(hosts=("db.example.com",)))])
        assert made.hosts == {"db.example.com"}
        made.apply([Upsert(piece(hosts=("10.244.0.1",)))])
        assert made.hosts == frozenset()

    def test_new_addresses_of_a_host_are_a_change(self):
        made = store()
        made.apply([Upsert(service()), Upsert(piece(hosts=("db.example.com",)))])
        made.apply([Resolved("db.example.com", (ip_address("192.0.2.1"), ip_address("192.0.2.2")))])
        assert backends(made) == ["192.0.2.1:8080", "192.0.2.2:8080"]
        again = Resolved("db.example.com", (ip_address("192.0.2.1"), ip_address("192.0.2.2")))
        assert made.apply([again]) == Changes()


class TestPods:
    pod = Pod(NamespacedName("default", "p"), {"app": "web"}, (ip_address("10.244.0.9"),), (), ready=True)
    selecting = service(selector={"app": "web"})

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["service first", "pod first"])
    def test_a_selected_pod_is_an_endpoint(self, order):
        made = store()
        events = [Upsert(self.selecting), Upsert(self.pod)]
        for at in order:
            made.apply([events[at]])
        assert backends(made) == ["10.244.0.9:8080"]

    def test_a_pod_that_is_relabelled_leaves(self):
        made = store()
        made.apply([Upsert(self.selecting), Upsert(self.pod)])
        made.apply([Upsert(Pod(self.pod.key, {"app": "x"}, self.pod.ips, (), ready=True))])
        assert backends(made) == []

    def test_a_slice_silences_pods_and_a_flag_does_not(self):
        made = store()
        flag = piece("flag", hosts=("10.244.0.7",), origin=Origin.FLAG)
        made.apply([Upsert(self.selecting), Upsert(self.pod), Upsert(flag)])
        assert sorted(backends(made)) == ["10.244.0.7:8080", "10.244.0.9:8080"]
        made.apply([Upsert(piece())])
        assert sorted(backends(made)) == ["10.244.0.1:8080", "10.244.0.7:8080"]


OBJECTS = [
    service("a", "10.96.0.1"),
    service("b", "10.96.0.1"),
    service("c", None),
    service("d", None, selector={"app": "web"}),
    service("e", "10.96.0.5", headless=True),
    piece("a-1", "a"),
    piece("a-2", "a", ("10.244.0.2", "10.244.0.3")),
    piece("c-1", "c", ("10.244.0.4",), Origin.ENDPOINTS),
    piece("c-2", "c", ("10.244.0.5",)),
    TestPods.pod,
]


@given(st.permutations(OBJECTS), st.integers(1, len(OBJECTS)))
def test_every_order_of_delivery_serves_the_same_endpoints(order, batch):
    made = store()
    for at in range(0, len(order), batch):
        made.apply([Upsert(known) for known in order[at : at + batch]])
    assert sorted(backends(made, "a")) == ["10.244.0.1:8080", "10.244.0.2:8080", "10.244.0.3:8080"]
    assert backends(made, "c") == ["10.244.0.5:8080"]
    assert backends(made, "d") == ["10.244.0.9:8080"]
    assert sorted(vips(made, "a") + vips(made, "b")) == ["10.96.0.1:80/TCP"]


@given(st.permutations(OBJECTS))
def test_nothing_is_left_when_everything_is_deleted(order):
    made = store()
    made.apply([Upsert(known) for known in OBJECTS])
    for known in order:
        made.apply([Delete(known)])
    assert made.desired == {}
    assert made._claims._owners == {}
    assert made._allocator._by_ip == {}
    assert not made._allocator._reserved


class TestOptions:
    def test_they_come_along_and_what_cannot_be_followed_is_noted(self):
        made = store()
        asked = Options(hold_s=5.0)
        made.apply([Upsert(service(options=asked, option_faults=("uproxy.dev/holt: is not known",)))])
        desired = made.desired[name()]
        assert desired.options == asked
        assert desired.notes == ("uproxy.dev/holt: is not known",)

    @pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
    def test_only_connections_are_held(self, protocol):
        made = store()
        port = ServicePort("", protocol, 80, 8080)
        made.apply([Upsert(service(ports=(port,), options=Options(hold_s=5.0)))])
        desired = made.desired[name(protocol=protocol)]
        held = protocol is Protocol.TCP
        assert [desired.holds(frontend) for frontend in desired.frontends] == [held]
        assert {desired.treatment(frontend) for frontend in desired.frontends} == {
            Treatment.FORWARD if held else Treatment.REJECT
        }

    def test_nobody_is_held_while_there_is_an_endpoint(self):
        made = store()
        made.apply([Upsert(service(options=Options(hold_s=5.0))), Upsert(piece())])
        desired = made.desired[name()]
        assert [desired.holds(frontend) for frontend in desired.frontends] == [False]

    @pytest.mark.parametrize(
        ("conditions", "gone"),
        [
            pytest.param({"ready": False}, False, id="not ready"),
            pytest.param({"ready": False, "terminating": True}, False, id="drains"),
            pytest.param({"ready": False, "serving": False}, False, id="may come back"),
            pytest.param({"ready": False, "serving": False, "terminating": True}, True, id="has ended"),
        ],
    )
    def test_an_endpoint_is_gone_when_it_terminates_and_serves_no_more(self, conditions, gone):
        made = store()
        ended = EndpointSlice(
            NamespacedName("default", "web-1"),
            NamespacedName("default", "web"),
            (SlicePort("", TCP, 8080),),
            (Endpoint(ip_address("10.244.0.1"), **conditions),),
        )
        made.apply([Upsert(service()), Upsert(ended)])
        assert bool(made.desired[name()].gone) is gone
