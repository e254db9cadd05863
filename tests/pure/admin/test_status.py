from ipaddress import ip_network

import pytest

from tests.pure.admin.build import NOT_READY, READY, desired, fault
from uproxy.admin.status import faults_by_service, status_of
from uproxy.model.endpoint import EndpointSlice
from uproxy.model.events import Upsert
from uproxy.model.names import NamespacedName
from uproxy.state.addresses import AddressPlan
from uproxy.state.store import Store

DUAL = ("172.30.0.1", "fd00::1")
TAKEN = "172.30.0.9:80/TCP belongs to default/other/TCP already"


def problems(service_port, count):
    return {frontend.vip: "cannot listen: permission denied" for frontend in service_port.frontends[:count]}


@pytest.mark.parametrize(
    ("service_port", "in_trouble", "expected"),
    [
        pytest.param(desired(), 0, "ok", id="all is well"),
        pytest.param(desired({}), 0, "no-endpoints", id="no endpoint is listed"),
        pytest.param(desired({"10.0.0.1:80": NOT_READY}), 0, "no-endpoints", id="none is ready"),
        pytest.param(
            desired(),
            1,
            "error: 172.30.0.1:80/TCP: cannot listen: permission denied",
            id="its only address failed",
        ),
        pytest.param(
            desired({"10.0.0.1:80": READY, "fd00::9:80": READY}, vips=DUAL),
            1,
            "partial: 172.30.0.1:80/TCP: cannot listen: permission denied",
            id="one of two addresses failed",
        ),
        pytest.param(desired(notes=(TAKEN,)), 0, f"partial: {TAKEN}", id="one address is another's"),
        pytest.param(
            desired(vips=(), notes=(TAKEN,)), 0, f"error: {TAKEN}", id="the only address is another's"
        ),
        pytest.param(
            desired(vips=(), notes=("SCTP is not relayed",)), 0, "error: SCTP is not relayed", id="unserved"
        ),
        pytest.param(
            desired({}, notes=(TAKEN,)), 0, f"partial: {TAKEN}; no endpoints", id="two reasons are both told"
        ),
        pytest.param(desired(vips=DUAL), 0, "partial: no IPv6 endpoints", id="one family has none"),
    ],
)
def test_status_tells_the_worst_and_why(service_port, in_trouble, expected):
    assert status_of(service_port, problems(service_port, in_trouble), ()) == expected


def test_a_mistake_in_the_manifest_goes_first():
    assert status_of(desired({}), {}, [fault()]) == "faulty: spec.ports[0].port: must be a number"


def test_several_mistakes_are_counted():
    status = status_of(desired(), {}, [fault("one"), fault("two"), fault("three")])
    assert status == "faulty: spec.ports[0].port: one (and 2 more)"


def test_mistakes_belong_to_the_service_of_their_name():
    service, endpoints = fault(), fault("bad address", kind="Endpoints")
    found = faults_by_service([service, endpoints, fault(name="other"), fault(kind="Pod")], empty_store())
    assert found[NamespacedName("default", "web")] == [service, endpoints]
    assert set(found) == {NamespacedName("default", "web"), NamespacedName("default", "other")}


def test_mistakes_in_a_slice_belong_to_the_service_that_uses_it():
    store = empty_store()
    web = NamespacedName("default", "web")
    store.apply([Upsert(EndpointSlice(NamespacedName("default", "web-1"), web, (), ()))])
    mistake = fault("must be 1 to 65535", name="web-1", kind="EndpointSlice", field="ports[0].port")
    assert faults_by_service([mistake, fault(name="new", kind="EndpointSlice")], store) == {web: [mistake]}
    expected = "faulty: web.yaml, document 1: EndpointSlice default/web-1: ports[0].port: must be 1 to 65535"
    assert status_of(desired(), {}, [mistake]) == expected


def empty_store() -> Store:
    return Store(AddressPlan(ip_network("10.96.0.0/16"), loopback_only=False))
