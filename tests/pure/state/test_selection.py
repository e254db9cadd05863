"""Which endpoints a Service port has, and which of them take new connections."""

from ipaddress import ip_address

import pytest

from uproxy.model.endpoint import ContainerPort, Endpoint, EndpointSlice, Origin, Pod, SlicePort
from uproxy.model.frontend import Backend, EndpointState
from uproxy.model.names import NamespacedName, Protocol
from uproxy.model.service import Service, ServicePort
from uproxy.state import selection
from uproxy.state.policy import Here
from uproxy.state.policy import usable as usable_members
from uproxy.state.selection import authoritative, local_ready_endpoints, slices_from_pods, state_of

WEB = NamespacedName("default", "web")
HTTP = ServicePort("http", Protocol.TCP, 80, "http")
READY, TERMINATING, NOT_READY = EndpointState.READY, EndpointState.TERMINATING, EndpointState.NOT_READY


def address(text: str, port: int = 8080) -> Backend:
    return Backend(ip_address(text), port)


def piece(*endpoints: Endpoint, origin=Origin.ENDPOINT_SLICE, name="web-1", ports=None) -> EndpointSlice:
    ports = ports or (SlicePort("http", Protocol.TCP, 8080),)
    return EndpointSlice(NamespacedName("default", name), WEB, ports, endpoints, origin)


def endpoint(text: str, *, ready=True, serving=None, terminating=False) -> Endpoint:
    return Endpoint(ip_address(text), ready, ready if serving is None else serving, terminating)


def endpoints_of(*given) -> dict[Backend, EndpointState]:
    return {backend: state_of(its) for backend, its in selection.endpoints_of(*given).items()}


def usable(given: dict[Backend, EndpointState]):
    """Without a node or hints."""
    members = {
        backend: Endpoint(
            backend.ip,
            ready=state is READY,
            serving=state is not NOT_READY,
            terminating=state is TERMINATING,
        )
        for backend, state in given.items()
    }
    return usable_members(members, Here())


@pytest.mark.parametrize(
    ("given", "state"),
    [
        pytest.param(endpoint("10.244.0.1"), READY, id="ready"),
        pytest.param(endpoint("10.244.0.1", ready=False), NOT_READY, id="not ready"),
        pytest.param(
            endpoint("10.244.0.1", ready=False, serving=True, terminating=True), TERMINATING, id="terminating"
        ),
        pytest.param(
            endpoint("10.244.0.1", ready=False, terminating=True), NOT_READY, id="terminating, not serving"
        ),
        pytest.param(
            endpoint("10.244.0.1", terminating=True), READY, id="publishNotReadyAddresses: ready all the same"
        ),
    ],
)
def test_an_endpoint_has_one_state(given, state):
    assert endpoints_of(HTTP, [piece(given)], {}) == {address("10.244.0.1"): state}


def test_ports_are_matched_by_name_and_protocol():
    ports = (SlicePort("http", Protocol.UDP, 1), SlicePort("admin", Protocol.TCP, 2))
    assert endpoints_of(HTTP, [piece(endpoint("10.244.0.1"), ports=ports)], {}) == {}


def test_a_named_port_may_differ_from_slice_to_slice():
    slices = [
        piece(endpoint("10.244.0.1"), name="a"),
        piece(endpoint("10.244.0.2"), name="b", ports=(SlicePort("http", Protocol.TCP, 9090),)),
    ]
    assert list(endpoints_of(HTTP, slices, {})) == [address("10.244.0.1"), address("10.244.0.2", 9090)]


def test_an_address_in_two_slices_counts_once_with_its_better_state():
    slices = [piece(endpoint("10.244.0.1", ready=False), name="a"), piece(endpoint("10.244.0.1"), name="b")]
    assert endpoints_of(HTTP, slices, {}) == {address("10.244.0.1"): READY}


@pytest.mark.parametrize("order", [1, -1])
def test_of_an_address_in_two_slices_the_one_that_does_not_end_counts(order):
    """The address of a Pod that ends is another's by now, which is not ready yet."""
    ends = endpoint("10.244.0.1", ready=False, serving=True, terminating=True)
    slices = [piece(ends, name="a"), piece(endpoint("10.244.0.1", ready=False), name="b")][::order]
    assert endpoints_of(HTTP, slices, {}) == {address("10.244.0.1"): NOT_READY}


def test_a_host_name_counts_with_all_its_addresses_once_it_is_resolved():
    slices = [piece(Endpoint("db.example.com"))]
    assert endpoints_of(HTTP, slices, {}) == {}
    resolutions = {"db.example.com": (ip_address("192.0.2.1"), ip_address("2001:db8::1"))}
    assert list(endpoints_of(HTTP, slices, resolutions)) == [address("192.0.2.1"), address("2001:db8::1")]


class TestUsable:
    def test_only_the_ready_ones_while_there_are_any(self):
        given = {
            address("10.244.0.1"): TERMINATING,
            address("10.244.0.2"): READY,
            address("10.244.0.3"): NOT_READY,
        }
        assert usable(given)[4] == (address("10.244.0.2"),)

    def test_else_the_terminating_ones_that_serve(self):
        given = {address("10.244.0.1"): TERMINATING, address("10.244.0.3"): NOT_READY}
        assert usable(given)[4] == (address("10.244.0.1"),)

    def test_families_are_apart(self):
        given = {address("10.244.0.1"): READY, address("fd00::1"): NOT_READY}
        assert usable(given) == {4: (address("10.244.0.1"),), 6: ()}

    def test_a_family_without_any_endpoint_borrows_the_others(self):
        given = {address("fd00::1"): READY}
        assert usable(given) == {4: (address("fd00::1"),), 6: (address("fd00::1"),)}

    def test_nothing_from_nothing(self):
        assert not any(usable({}).values())


class TestAuthority:
    def test_endpoint_slices_silence_what_mirrors_them(self):
        slices = [
            piece(origin=Origin.PODS),
            piece(origin=Origin.ENDPOINT_SLICE),
            piece(origin=Origin.ENDPOINTS),
        ]
        assert [chosen.origin for chosen in authoritative(slices)] == [Origin.ENDPOINT_SLICE]

    def test_flags_are_always_added(self):
        slices = [piece(origin=Origin.FLAG), piece(origin=Origin.PODS)]
        assert [chosen.origin for chosen in authoritative(slices)] == [Origin.FLAG, Origin.PODS]

    def test_flags_alone_are_enough(self):
        assert authoritative([piece(origin=Origin.FLAG)]) == [piece(origin=Origin.FLAG)]


class TestPods:
    service = Service(WEB, (HTTP, ServicePort("raw", Protocol.TCP, 81, 9000)), selector={"app": "web"})

    def pod(self, **changes) -> Pod:
        fields = {
            "key": NamespacedName("default", "web-abc"),
            "labels": {"app": "web", "tier": "front"},
            "ips": (ip_address("10.244.0.1"),),
            "ports": (ContainerPort("http", Protocol.TCP, 8080),),
            "ready": True,
        }
        return Pod(**fields | changes)

    def test_a_selected_pod_is_an_endpoint_of_each_port(self):
        [made] = slices_from_pods(self.service, [self.pod()])
        assert made.ports == (SlicePort("http", Protocol.TCP, 8080), SlicePort("raw", Protocol.TCP, 9000))
        assert made.endpoints == (endpoint("10.244.0.1"),)

    def test_a_pod_without_the_named_port_is_no_endpoint_of_it(self):
        [made] = slices_from_pods(self.service, [self.pod(ports=())])
        assert made.ports == (SlicePort("raw", Protocol.TCP, 9000),)

    def test_labels_must_all_match(self):
        assert slices_from_pods(self.service, [self.pod(labels={"tier": "front"})]) == []

    def test_no_selector_selects_nothing(self):
        assert slices_from_pods(Service(WEB, (HTTP,)), [self.pod()]) == []

    def test_a_terminating_pod_still_serves_if_it_was_ready(self):
        [made] = slices_from_pods(self.service, [self.pod(terminating=True)])
        assert made.endpoints == (endpoint("10.244.0.1", ready=False, serving=True, terminating=True),)

    def test_addresses_that_are_not_ready_can_be_published(self):
        service = Service(WEB, (HTTP,), selector={"app": "web"}, publish_not_ready_addresses=True)
        [made] = slices_from_pods(service, [self.pod(ready=False)])
        assert made.endpoints[0].ready


A, B, A6 = ip_address("10.0.0.1"), ip_address("10.0.0.2"), ip_address("fd00::1")


class TestLocalReadyEndpoints:
    @staticmethod
    def slices(*members: Endpoint) -> list[EndpointSlice]:
        """One slice for each port, with the same endpoints in both."""
        key = NamespacedName("default", "web-1")
        ports = [(SlicePort(name, Protocol.TCP, number),) for name, number in (("a", 1), ("b", 2))]
        return [EndpointSlice(key, WEB, its, members) for its in ports]

    @pytest.mark.parametrize(
        ("endpoint", "count"),
        [
            pytest.param(Endpoint(A, node="here"), 1, id="here and ready"),
            pytest.param(Endpoint(A, node="there"), 0, id="elsewhere"),
            pytest.param(Endpoint(A), 0, id="nobody knows where"),
            pytest.param(Endpoint(A, ready=False, node="here"), 0, id="not ready"),
            pytest.param(Endpoint(A, False, True, True, "here"), 0, id="only terminating"),
        ],
    )
    def test_only_ready_ones_of_this_node_count_and_each_once(self, endpoint, count):
        assert local_ready_endpoints(self.slices(endpoint), "here") == count

    def test_a_pod_of_both_families_is_one(self):
        members = (
            Endpoint(A, node="here"),
            Endpoint(ip_address("fd00::1"), node="here"),
            Endpoint(B, node="here"),
        )
        assert local_ready_endpoints(self.slices(*members), "here") == 2

    def test_without_a_node_everything_is_here(self):
        assert local_ready_endpoints(self.slices(Endpoint(A, node="there"), Endpoint(B)), None) == 2
