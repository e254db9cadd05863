"""What API objects become. Manifests are another reading of the same fields: both must agree."""

from datetime import UTC, datetime
from ipaddress import ip_address, ip_network

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cluster import objects
from uproxy.model.endpoint import Endpoint, SlicePort
from uproxy.model.names import NamespacedName, Protocol
from uproxy.model.node import Node
from uproxy.model.options import Balancing
from uproxy.model.service import ServicePort, ServiceType
from uproxy.sources import convert as manifests
from uproxy.sources.kubernetes import convert, wire

PROXY_NAME = "service.kubernetes.io/service-proxy-name"
TRIGGERED = "endpoints.kubernetes.io/last-change-trigger-time"


def decoded(document, kind):
    """Through JSON, as it comes from a server."""
    return msgspec.json.decode(msgspec.json.encode(document), type=kind)


def service(document, proxy_name=None):
    return convert.service(decoded(document, wire.Service), proxy_name)


def endpoint_slice(document):
    return convert.endpoint_slice(decoded(document, wire.EndpointSlice))


def node(document):
    return convert.node(decoded(document, wire.Node))


def from_manifest(document):
    result = manifests.convert(document)
    assert [str(fault) for fault in result.faults] == []
    (made,) = result.objects
    return made


# ---- both readings agree ----

_LB = {"type": "LoadBalancer"}
_SERVICES = [
    pytest.param({}, id="plain"),
    pytest.param({"clusterIP": "None", "clusterIPs": ["None"]}, id="headless"),
    pytest.param({"clusterIPs": ["10.96.0.10", "fd00::a"], "ipFamilies": ["IPv4", "IPv6"]}, id="dual stack"),
    pytest.param({"externalIPs": ["203.0.113.7", "203.0.113.7"]}, id="external IPs"),
    pytest.param({"sessionAffinity": "ClientIP"}, id="affinity by default"),
    pytest.param(
        {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}},
        id="affinity",
    ),
    pytest.param({"internalTrafficPolicy": "Local"}, id="internal policy"),
    pytest.param(
        _LB | {"externalTrafficPolicy": "Local", "healthCheckNodePort": 32000}, id="external policy"
    ),
    pytest.param(
        _LB | {"loadBalancerSourceRanges": [" 203.0.113.0/24 ", "2001:db8::/32"]}, id="source ranges"
    ),
    pytest.param({"publishNotReadyAddresses": True}, id="not ready too"),
    pytest.param({"selector": None}, id="no selector"),
    pytest.param(
        {
            "type": "NodePort",
            "ports": [
                {"name": "a", "port": 53, "protocol": "UDP", "targetPort": "dns", "nodePort": 30053},
                {"name": "b", "port": 53, "protocol": "TCP", "nodePort": 30053},
                {"name": "c", "port": 54, "protocol": "SCTP", "targetPort": 5},
            ],
        },
        id="ports",
    ),
]


@pytest.mark.parametrize("spec", _SERVICES)
def test_a_service_is_read_as_in_a_manifest(spec):
    document = objects.service(**spec)
    assert service(document) == from_manifest(document)


@pytest.mark.parametrize("mode", [{}, {"ipMode": "VIP"}, {"ipMode": "Proxy"}])
def test_ingress_is_read_as_in_a_manifest(mode):
    document = objects.service(**_LB)
    ingress = [{"ip": "203.0.113.9"} | mode, {"hostname": "lb.example"}, {"ip": "203.0.113.10"}]
    document["status"]["loadBalancer"]["ingress"] = ingress
    assert service(document) == from_manifest(document)
    assert len(service(document).load_balancer_ips) == (1 if mode.get("ipMode") == "Proxy" else 2)


def test_external_name_is_read_as_in_a_manifest():
    document = objects.service()
    document["spec"] = {"type": "ExternalName", "externalName": "db.example.com", "sessionAffinity": "None"}
    assert service(document) == from_manifest(document)
    assert service(document).type is ServiceType.EXTERNAL_NAME


_conditions = st.fixed_dictionaries(
    {}, optional={name: st.booleans() for name in ("ready", "serving", "terminating")}
)
_names = st.lists(st.sampled_from("abc"), max_size=3).map(lambda names: [{"name": name} for name in names])
_hints = st.fixed_dictionaries({}, optional={"forZones": _names, "forNodes": _names})
_endpoints = st.fixed_dictionaries(
    {"addresses": st.lists(st.ip_addresses(v=4, network="10.0.0.0/8").map(str), min_size=1, max_size=2)},
    optional={
        "conditions": _conditions,
        "hints": _hints,
        "nodeName": st.sampled_from(("node-1", "node-2")),
        "hostname": st.sampled_from(("web-0", "web-1")),
        "zone": st.just("zone-a"),
        "targetRef": st.just({"kind": "Pod"}),
    },
)


@given(st.lists(_endpoints, max_size=5))
def test_every_slice_is_read_as_in_a_manifest(endpoints):
    document = objects.endpoint_slice(endpoints=endpoints)
    assert endpoint_slice(document) == from_manifest(document)


@pytest.mark.parametrize(
    "ports",
    [
        pytest.param([{"name": "", "port": 80}], id="without a name"),
        pytest.param([{"port": 80, "protocol": "UDP"}], id="name left out"),
        pytest.param([{"name": "all", "port": None}, {"name": "some", "port": 1}], id="all ports"),
    ],
)
def test_ports_are_read_as_in_a_manifest(ports):
    document = objects.endpoint_slice("web-1", "10.0.0.1", ports=ports)
    assert endpoint_slice(document) == from_manifest(document)


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({}, id="plain"),
        pytest.param({"podCIDRs": None}, id="podCIDR alone"),
        pytest.param({"podCIDR": "", "podCIDRs": None}, id="without Pods"),
        pytest.param({"podCIDRs": ["10.244.1.0/24", "fd00:1::/64"]}, id="dual stack"),
        pytest.param(
            {"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]}, id="leaving"
        ),
        pytest.param({"taints": [{"key": "other", "effect": "NoSchedule"}]}, id="another taint"),
    ],
)
def test_a_node_is_read_as_in_a_manifest(spec):
    document = objects.node(**spec)
    document["status"]["addresses"] += [
        {"type": "Hostname", "address": "node-1"},
        {"type": "ExternalIP", "address": "203.0.113.2"},
        {"type": "InternalIP", "address": "fd00::2"},
    ]
    assert node(document) == from_manifest(document)


# ---- what they become ----


def test_a_service():
    made = service(objects.service("web", "10.96.0.10"))
    assert made.key == NamespacedName("default", "web")
    assert made.ports == (ServicePort("http", Protocol.TCP, 80, 8080),)
    assert made.cluster_ips == (ip_address("10.96.0.10"),)
    assert made.ip_families == (4,)
    assert made.captured


def test_a_node():
    assert node(objects.node()) == Node(
        "node-1", "zone-a", (ip_address("192.168.0.2"),), (ip_network("10.244.1.0/24"),), leaving=False
    )


def test_a_node_that_is_being_deleted_is_leaving():
    document = objects.node()
    document["metadata"]["deletionTimestamp"] = "2026-11-23T09:00:00Z"
    assert node(document).leaving


def test_a_slice():
    made = endpoint_slice(objects.endpoint_slice("web-1", "10.0.0.1"))
    assert (made.key, made.service) == (NamespacedName("default", "web-1"), NamespacedName("default", "web"))
    assert made.ports == (SlicePort("http", Protocol.TCP, 8080),)
    assert made.endpoints == (Endpoint(ip_address("10.0.0.1"), node="node-1"),)


@pytest.mark.parametrize(
    ("conditions", "states"),
    [
        pytest.param({}, (True, True, False), id="unknown is ready"),
        pytest.param({"ready": False}, (False, True, False), id="unknown is serving"),
        pytest.param(
            {"ready": False, "serving": True, "terminating": True}, (False, True, True), id="terminating"
        ),
    ],
)
def test_conditions(conditions, states):
    (made,) = endpoint_slice(
        objects.endpoint_slice(endpoints=[{"addresses": ["10.0.0.1"], "conditions": conditions}])
    ).endpoints
    assert (made.ready, made.serving, made.terminating) == states


def test_an_empty_slice_has_null_for_its_lists():
    made = endpoint_slice(objects.endpoint_slice(endpoints=None, ports=None))
    assert (made.endpoints, made.ports) == ((), ())


def test_slices_with_host_names_or_without_a_service_are_left_out():
    assert endpoint_slice(objects.endpoint_slice("w", "a.example", addressType="FQDN")) is None
    stray = objects.endpoint_slice("w", "10.0.0.1")
    stray["metadata"]["labels"] = {"app": "x"}
    assert endpoint_slice(stray) is None
    del stray["metadata"]["labels"]
    assert endpoint_slice(stray) is None


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-23T09:13:16Z", datetime(2026, 11, 23, 9, 13, 16, tzinfo=UTC)),
        ("2026-11-23T09:13:16.25Z", datetime(2026, 11, 23, 9, 13, 16, 250_000, tzinfo=UTC)),
        ("2026-11-23T09:13:16.123456789Z", datetime(2026, 11, 23, 9, 13, 16, 123_456, tzinfo=UTC)),
        ("2026-11-23T10:13:16+01:00", datetime(2026, 11, 23, 9, 13, 16, tzinfo=UTC)),
        ("yesterday", None),
    ],
)
def test_when_a_slice_was_triggered(text, moment):
    document = objects.endpoint_slice("web-1", "10.0.0.1")
    document["metadata"]["annotations"] = {TRIGGERED: text}
    assert endpoint_slice(document).triggered_at_s == (moment and moment.timestamp())


def test_options_and_what_is_wrong_with_them():
    document = objects.service()
    document["metadata"]["annotations"] = {
        "uproxy.dev/balancing": "p2c",
        "uproxy.dev/hold": "a while",
        "other.example/balancing": "maglev",
    }
    made = service(document)
    assert made.options.balancing is Balancing.P2C
    (fault,) = made.option_faults
    assert fault.startswith("uproxy.dev/hold: 'a while' is not a duration")


@pytest.mark.parametrize(
    ("label", "ours", "proxy_name"),
    [(None, None, None), ("x", None, "x"), ("x", "x", None), ("x", "y", "x"), ("", None, "")],
)
def test_another_proxys_service_is_not_ours(label, ours, proxy_name):
    document = objects.service()
    if label is not None:
        document["metadata"]["labels"] = {PROXY_NAME: label}
    assert service(document, ours).proxy_name == proxy_name


def test_addresses_of_old_objects_are_read_as_kube_proxy_reads_them():
    made = service(objects.service("web", "010.096.000.010"))
    assert made.cluster_ips == (ip_address("10.96.0.10"),)


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"clusterIPs": ["x"]}, id="address"),
        pytest.param({"type": "Unheard"}, id="type"),
        pytest.param({"ports": [{"port": 80, "protocol": "QUIC"}]}, id="protocol"),
        pytest.param({"loadBalancerSourceRanges": ["10.0.0.0/99"]}, id="network"),
    ],
)
def test_what_cannot_be_converted_says_so(spec):
    with pytest.raises(ValueError, match=r"."):
        service(objects.service(**spec))
