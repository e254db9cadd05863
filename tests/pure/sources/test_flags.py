"""`--endpoint`: its syntax, what it means for a Service, and how it follows the Services."""

from ipaddress import ip_address

import pytest

from uproxy.model.endpoint import Endpoint, EndpointSlice, Origin, SlicePort
from uproxy.model.events import Delete, Event, Faulted, Synced, Upsert
from uproxy.model.faults import BadInput, Fault
from uproxy.model.names import NamespacedName, Protocol
from uproxy.model.service import Service, ServicePort
from uproxy.sources.flags import FlagSource, check_flags, flag_slice, parse_endpoint, parse_endpoints

WEB = NamespacedName("default", "web")
HTTP = ServicePort("http", Protocol.TCP, 80, 8080)
DNS, DNS_TCP = ServicePort("dns", Protocol.UDP, 53, 53), ServicePort("dns-tcp", Protocol.TCP, 53, 53)
TO_WEB = "default/web=127.0.0.1:8080"


@pytest.mark.parametrize(
    ("text", "port", "host", "target_port"),
    [
        pytest.param(TO_WEB, "", ip_address("127.0.0.1"), 8080, id="IPv4"),
        pytest.param("default/web:http=10.0.0.1:1", "http", ip_address("10.0.0.1"), 1, id="a port by name"),
        pytest.param("default/web:80=10.0.0.1:65535", "80", ip_address("10.0.0.1"), 65535, id="by number"),
        pytest.param("default/web=[::1]:80", "", ip_address("::1"), 80, id="IPv6"),
        pytest.param("default/web=localhost:80", "", "localhost", 80, id="a host name"),
        pytest.param("default/web=DB.Example.com.:80", "", "db.example.com.", 80, id="an absolute host name"),
    ],
)
def test_a_good_flag(text, port, host, target_port):
    flag = parse_endpoint(text)

    assert (flag.service, flag.port, flag.host, flag.target_port) == (WEB, port, host, target_port)
    assert flag.text == text


SHAPE = "must look like NAMESPACE/SERVICE[:PORT]=ADDR:PORT"


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        pytest.param("", [SHAPE], id="empty"),
        pytest.param("web=127.0.0.1:80", [SHAPE], id="no namespace"),
        pytest.param("default/web", [SHAPE], id="no address"),
        pytest.param("default/web=127.0.0.1", [SHAPE], id="no port of the address"),
        pytest.param("default/web=[::1]", [SHAPE], id="no port of an IPv6 address"),
        pytest.param("/web=127.0.0.1:80", ["NAMESPACE is required"], id="empty namespace"),
        pytest.param("default/=127.0.0.1:80", ["SERVICE is required"], id="empty service"),
        pytest.param("default/web:=127.0.0.1:80", ["PORT is required"], id="empty port"),
        pytest.param("default/web=:80", ["ADDR is required"], id="empty address"),
        pytest.param(
            "default/web=::1:80",
            ["ADDR must stand in brackets when it is an IPv6 address: [::1]"],
            id="no brackets",
        ),
        pytest.param(
            "default/web=[10.0]:80", ["ADDR must be an IP address, not '10.0'"], id="no address in brackets"
        ),
        pytest.param(
            "default/web=10.0.0.256:80",
            ["ADDR must be an IP address, not '10.0.0.256'"],
            id="no IPv4 address",
        ),
        pytest.param(
            "default/web=a_b:80",
            ["ADDR must be a DNS name (a-z, 0-9, '-' and '.', at most 253 characters), not 'a_b'"],
            id="no host name",
        ),
        pytest.param("default/web=a:", ["ADDR's PORT is required"], id="no number"),
        pytest.param("default/web=a:http", ["ADDR's PORT must be 1 to 65535, not 'http'"], id="a name"),
        pytest.param(
            "Default/web=a:0",
            [
                "NAMESPACE must be a DNS label (a-z, 0-9 and '-', at most 63 characters), not 'Default'",
                "ADDR's PORT must be 1 to 65535, not 0",
            ],
            id="all mistakes at once",
        ),
    ],
)
def test_a_bad_flag(text, messages):
    with pytest.raises(BadInput) as raised:
        parse_endpoint(text)

    assert list(map(str, raised.value.faults)) == [f"--endpoint {text}: {message}" for message in messages]


def test_the_faults_of_all_flags_come_together():
    with pytest.raises(BadInput) as raised:
        parse_endpoints([TO_WEB, "a", "b"])

    assert [fault.file for fault in raised.value.faults] == ["--endpoint a", "--endpoint b"]


@pytest.mark.parametrize(
    ("text", "ports", "expected"),
    [
        pytest.param(TO_WEB, [HTTP], [SlicePort("http", Protocol.TCP, 8080)], id="the only port"),
        pytest.param(
            "default/web=127.0.0.1:5353",
            [DNS, DNS_TCP],
            [SlicePort("dns", Protocol.UDP, 5353), SlicePort("dns-tcp", Protocol.TCP, 5353)],
            id="every port",
        ),
        pytest.param(
            "default/web:dns=127.0.0.1:1", [HTTP, DNS], [SlicePort("dns", Protocol.UDP, 1)], id="by name"
        ),
        pytest.param(
            "default/web:53=127.0.0.1:1",
            [HTTP, DNS, DNS_TCP],
            [SlicePort("dns", Protocol.UDP, 1), SlicePort("dns-tcp", Protocol.TCP, 1)],
            id="by number, both protocols",
        ),
        pytest.param(
            "default/web:80=127.0.0.1:1",
            [HTTP, ServicePort("80", Protocol.TCP, 9, 9)],
            [SlicePort("80", Protocol.TCP, 1)],
            id="a name comes before a number",
        ),
    ],
)
def test_a_flag_serves_the_ports_it_means(text, ports, expected):
    piece = flag_slice(parse_endpoint(text), Service(WEB, tuple(ports)))

    assert isinstance(piece, EndpointSlice)
    assert piece.ports == tuple(expected)
    assert piece.endpoints == (Endpoint(ip_address("127.0.0.1")),)
    assert (piece.service, piece.origin) == (WEB, Origin.FLAG)


def test_a_port_that_the_service_lacks_is_a_fault_that_lists_what_it_has():
    fault = flag_slice(parse_endpoint("default/web:x=a:1"), Service(WEB, (HTTP, DNS)))

    assert str(fault) == "--endpoint default/web:x=a:1: default/web has no port x, but http (80), dns (53)"


def test_check_flags_names_missing_services_and_ports():
    flags = parse_endpoints([TO_WEB, "default/nope=a:1", "default/web:9=a:1"])

    assert list(map(str, check_flags(flags, [Service(WEB, (HTTP,))]))) == [
        "--endpoint default/nope=a:1: there is no Service default/nope",
        "--endpoint default/web:9=a:1: default/web has no port 9, but http (80)",
    ]


def observed(texts: list[str], *seen: Event) -> list[Event]:
    said: list[Event] = []
    source = FlagSource(parse_endpoints(texts), said.append)
    for event in seen:
        source.observe(event)
    return said


def made(text: str, *ports: ServicePort) -> EndpointSlice:
    piece = flag_slice(parse_endpoint(text), Service(WEB, ports))
    assert isinstance(piece, EndpointSlice)
    return piece


FILES = Synced("files")
WEB_HTTP, WEB_DNS = Service(WEB, (HTTP,)), Service(WEB, (DNS,))


def test_a_service_brings_its_flags_slices_before_the_source_is_synced():
    other = TO_WEB.replace("8080", "8081")

    assert observed([TO_WEB, other], Upsert(WEB_HTTP), FILES) == [
        Upsert(made(TO_WEB, HTTP)),
        Upsert(made(other, HTTP)),
        Faulted("flags", ()),
        Synced("flags"),
    ]


def test_slices_follow_the_services_ports():
    said = observed([TO_WEB], Upsert(WEB_HTTP), FILES, Upsert(WEB_DNS), Upsert(WEB_DNS))

    assert said[3:] == [Upsert(made(TO_WEB, DNS))]


def test_a_service_that_goes_takes_the_slice_with_it_and_leaves_a_fault():
    said = observed([TO_WEB], Upsert(WEB_HTTP), FILES, Delete(WEB_HTTP))

    fault = Fault(f"--endpoint {TO_WEB}", 0, "", None, "", "there is no Service default/web")
    assert said[3:] == [Delete(made(TO_WEB, HTTP)), Faulted("flags", (fault,))]


def test_a_service_that_comes_later_clears_the_fault():
    said = observed([TO_WEB], FILES, Upsert(WEB_HTTP))

    assert [event.source for event in said[:2]] == ["flags", "flags"]
    assert said[2:] == [Upsert(made(TO_WEB, HTTP)), Faulted("flags", ())]


def test_other_services_and_later_syncs_are_none_of_its_business():
    other = Service(NamespacedName("default", "other"), (HTTP,))

    assert observed([], Upsert(other), FILES, FILES, Delete(other)) == [Faulted("flags", ()), Synced("flags")]
