"""The rules for EndpointSlice and Endpoints."""

from ipaddress import ip_address

import pytest

from tests.pure.sources.objects import PORT, endpoints, slice_
from uproxy.model.endpoint import Endpoint, EndpointSlice, Origin, SlicePort
from uproxy.model.names import NamespacedName, Protocol
from uproxy.sources.convert import convert

IP1, IP2, IP6 = ip_address("10.244.0.1"), ip_address("10.244.0.2"), ip_address("fd00:10:244::1")
WEB = NamespacedName("default", "web")
HTTP = SlicePort("http", Protocol.TCP, 80)


def converted(document) -> tuple:
    result = convert(document)
    assert [str(fault) for fault in result.faults] == []
    return result.objects


def test_a_slice():
    document = slice_(
        [{"addresses": ["10.244.0.1"]}, {"addresses": ["10.244.0.2"]}], [{"name": "", "port": 8080}]
    )

    assert converted(document) == (
        EndpointSlice(
            key=NamespacedName("default", "web-1"),
            service=WEB,
            ports=(SlicePort("", Protocol.TCP, 8080),),
            endpoints=(Endpoint(IP1), Endpoint(IP2)),
        ),
    )


@pytest.mark.parametrize(
    ("conditions", "ready", "serving", "terminating"),
    [
        pytest.param(None, True, True, False, id="none"),
        pytest.param({"ready": None, "serving": None, "terminating": None}, True, True, False, id="all null"),
        pytest.param({"ready": False}, False, True, False, id="unknown is serving"),
        pytest.param(
            {"ready": False, "serving": True, "terminating": True}, False, True, True, id="terminating"
        ),
    ],
)
def test_conditions_are_defaulted(conditions, ready, serving, terminating):
    (made,) = converted(slice_([{"addresses": ["10.244.0.1"], "conditions": conditions}]))

    assert made.endpoints == (Endpoint(IP1, ready, serving, terminating),)


def test_only_the_first_address_of_an_endpoint_is_used():
    (made,) = converted(slice_([{"addresses": ["10.244.0.1", "10.244.0.2"]}]))

    assert made.endpoints == (Endpoint(IP1),)


@pytest.mark.parametrize(
    ("address_type", "address", "host"),
    [
        pytest.param("IPv4", "127.0.0.1", ip_address("127.0.0.1"), id="loopback is allowed"),
        pytest.param("IPv6", "fd00:10:244::1", IP6, id="IPv6"),
        pytest.param("FQDN", "db.example.com", "db.example.com.", id="names become absolute"),
    ],
)
def test_address_types(address_type, address, host):
    (made,) = converted(slice_([{"addresses": [address]}], address_type=address_type))

    assert made.endpoints == (Endpoint(host),)


@pytest.mark.parametrize("labels", [{"app": "web"}, {"kubernetes.io/service-name": ""}])
def test_a_slice_of_no_service_is_skipped(labels):
    result = convert(slice_(**labels))

    assert result.skipped
    assert not result.faults


@pytest.mark.parametrize("ports", [None, [], [{"name": "http", "port": None}], [{"name": "http"}]])
def test_ports_without_a_number_are_left_out(ports):
    (made,) = converted(slice_([{"addresses": ["10.244.0.1"]}]) | {"ports": ports})

    assert made.ports == ()


@pytest.mark.parametrize(
    ("document", "field", "message"),
    [
        pytest.param(
            slice_(address_type="IP"),
            "addressType",
            "must be one of IPv4, IPv6, FQDN, not 'IP'",
            id="addressType",
        ),
        pytest.param(slice_(address_type=None), "addressType", "is required", id="no addressType"),
        pytest.param(slice_([{}]), "endpoints[0].addresses", "is required", id="no addresses"),
        pytest.param(
            slice_([{"addresses": []}]), "endpoints[0].addresses", "is required", id="empty addresses"
        ),
        pytest.param(
            slice_([{"addresses": ["10.244.0.1", "x"]}]),
            "endpoints[0].addresses[1]",
            "must be an IP address, not 'x'",
            id="an address that is not used",
        ),
        pytest.param(
            slice_([{"addresses": ["fd00::1"]}]),
            "endpoints[0].addresses[0]",
            "must be an IPv4 address as addressType says, not 'fd00::1'",
            id="IPv6 in an IPv4 slice",
        ),
        pytest.param(
            slice_([{"addresses": ["10.0.0.1"]}], address_type="IPv6"),
            "endpoints[0].addresses[0]",
            "must be an IPv6 address as addressType says, not '10.0.0.1'",
            id="IPv4 in an IPv6 slice",
        ),
        pytest.param(
            slice_([{"addresses": ["db_1"]}], address_type="FQDN"),
            "endpoints[0].addresses[0]",
            "must be a DNS name (a-z, 0-9, '-' and '.', at most 253 characters), not 'db_1'",
            id="a bad name",
        ),
        pytest.param(
            slice_(ports=[PORT, PORT | {"port": 81}]),
            "ports[1].name",
            "'http' is given twice",
            id="name twice",
        ),
        pytest.param(slice_(ports=[{"port": 0}]), "ports[0].port", "must be 1 to 65535, not 0", id="port 0"),
        pytest.param(
            slice_(ports=[{"port": 1, "protocol": "x"}]),
            "ports[0].protocol",
            "must be one of TCP, UDP, SCTP, not 'x'",
            id="protocol",
        ),
        pytest.param(
            slice_([{"addresses": ["10.0.0.1"], "conditions": {"ready": "True"}}]),
            "endpoints[0].conditions.ready",
            "must be true or false, not 'True'",
            id="ready is text",
        ),
        pytest.param(
            slice_(**{"kubernetes.io/service-name": "a.b"}),
            "metadata.labels.kubernetes.io/service-name",
            "must be a DNS label (a-z, 0-9 and '-', at most 63 characters), not 'a.b'",
            id="service name",
        ),
    ],
)
def test_a_bad_slice_is_named_in_plain_words(document, field, message):
    assert (field, message) in [(fault.field, fault.message) for fault in convert(document).faults]


def test_endpoints_become_a_slice_for_each_subset_and_family():
    document = endpoints(
        {
            "addresses": [{"ip": "10.244.0.1"}, {"ip": "fd00:10:244::1"}],
            "notReadyAddresses": [{"ip": "10.244.0.2"}],
            "ports": [PORT],
        },
        {"addresses": [{"ip": "10.244.0.2"}], "ports": [PORT | {"port": 81}]},
    )

    first, second, third = converted(document)

    assert [made.key.name for made in (first, second, third)] == ["web-0", "web-1", "web-2"]
    assert {(made.service, made.origin) for made in (first, second, third)} == {(WEB, Origin.ENDPOINTS)}
    assert first.endpoints == (Endpoint(IP1), Endpoint(IP2, ready=False, serving=False))
    assert second.endpoints == (Endpoint(IP6),)
    assert (first.ports, third.ports) == ((HTTP,), (SlicePort("http", Protocol.TCP, 81),))


def test_endpoints_without_subsets_are_no_slices_and_no_fault():
    assert converted(endpoints()) == ()


@pytest.mark.parametrize(
    ("subset", "field", "message"),
    [
        pytest.param({"addresses": [{}]}, "addresses[0].ip", "is required", id="no ip"),
        pytest.param(
            {"notReadyAddresses": [{"ip": "x"}]},
            "notReadyAddresses[0].ip",
            "must be an IP address, not 'x'",
            id="bad ip",
        ),
        pytest.param({"ports": [{"name": "a"}]}, "ports[0].port", "is required", id="no port"),
        pytest.param({"ports": [{"port": 1}, PORT]}, "ports[0].name", "is required", id="name needed"),
    ],
)
def test_bad_endpoints(subset, field, message):
    (fault,) = convert(endpoints(subset)).faults

    assert (fault.field, fault.message) == (f"subsets[0].{field}", message)


def test_endpoints_say_hostnames_and_nodes_as_a_mirrored_slice_does():
    address = {"ip": "10.244.0.1", "hostname": "db-0", "nodeName": "n1"}
    (made,) = converted(endpoints({"addresses": [address], "ports": [PORT]}))
    assert made.endpoints == (Endpoint(IP1, node="n1", hostname="db-0"),)
