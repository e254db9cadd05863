"""Whatever stands in an object from an API server: it is converted or left out, and harms no other."""

import copy
import json
from ipaddress import IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cluster import objects
from uproxy.dns.pods import PodMode
from uproxy.dns.wire import from_text
from uproxy.dns.zone import Zone
from uproxy.model.events import Upsert
from uproxy.model.names import Protocol
from uproxy.model.special import special
from uproxy.sources.kubernetes.errors import Trouble
from uproxy.sources.kubernetes.intake import Intake
from uproxy.sources.kubernetes.known import Known
from uproxy.sources.kubernetes.resources import endpoint_slices, own_node, services
from uproxy.sources.kubernetes.source import like
from uproxy.state.addresses import AddressPlan
from uproxy.state.store import Store

DEEP = 100_000
NODE = {
    "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "a"}},
    "spec": {"podCIDRs": ["10.244.1.0/24"], "taints": [{"key": "x"}]},
    "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]},
}
SERVICE = objects.service() | {
    "metadata": {
        "name": "web", "namespace": "default", "resourceVersion": "5",
        "labels": {"app": "web"}, "annotations": {"uproxy.dev/balancing": "maglev"},
    },
    "spec": {
        "type": "LoadBalancer", "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "fd00::10"],
        "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080, "nodePort": 30080}],
        "selector": {"app": "web"}, "externalIPs": ["192.0.2.7"], "ipFamilies": ["IPv4", "IPv6"],
        "externalName": "", "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10}},
        "internalTrafficPolicy": "Cluster", "externalTrafficPolicy": "Local",
        "loadBalancerSourceRanges": ["203.0.113.0/24"], "healthCheckNodePort": 30999,
        "publishNotReadyAddresses": False,
    },
    "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.8", "ipMode": "VIP"}]}},
}  # fmt: skip
SLICE = {
    "metadata": {
        "name": "web-1", "namespace": "default", "resourceVersion": "5",
        "labels": {"kubernetes.io/service-name": "web"},
        "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z"},
    },
    "addressType": "IPv4",
    "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    "endpoints": [
        {
            "addresses": ["10.244.0.1"], "conditions": {"ready": True, "serving": True, "terminating": False},
            "hostname": "web-0", "nodeName": "n1",
            "hints": {"forZones": [{"name": "a"}], "forNodes": [{"name": "n1"}]},
        }
    ],
}  # fmt: skip
KINDS = {
    "service": (SERVICE, lambda: services(None, True)),
    "slice": (SLICE, lambda: endpoint_slices(None, True)),
    "node": (NODE, lambda: own_node("n1")),
}
ODD = st.sampled_from(
    [
        None, True, 0, -1, 65536, 70000, 2**31, 2**63, 2**64, -(2**63), 1.5, 1e308, "", " ", "80", "None",
        "10.0.0.1", "10.0.0.1 ", "010.0.0.1", "127.0.0.1", "::ffff:127.0.0.1", "::1", "fe80::1%eth0",
        "0.0.0.0", "255.255.255.255", "169.254.169.254", "224.0.0.1", "10.0.0.0/33", "fe80::%eth0/64", "::/0",
        "a\x1b[31mb", "a; } flush ruleset", "x" * 10_000, "\ud800", "\u202e", "\x00", "UDP", "ExternalName",
        "0001-01-01T00:00:00", "9999-12-31T23:59:59-23:59", [], {}, [None], [[]], {"": None},
    ]
)  # fmt: skip
ANY = ODD | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def places(thing, way=()):
    """The way to every value in it."""
    yield way
    pairs = thing.items() if isinstance(thing, dict) else enumerate(thing) if isinstance(thing, list) else ()
    for key, inner in pairs:
        yield from places(inner, (*way, key))


def replaced(thing, way, value):
    """The same with another value at one place; a place that is not there comes to be."""
    made = copy.deepcopy(thing)
    if not way:
        return value
    here = made
    for step in way[:-1]:
        here = here[step]
    here[way[-1]] = value
    return made


class World:
    """What becomes of objects: a store, and names."""

    def __init__(self, resource) -> None:
        self.events = []
        known = Known(self.upsert, lambda _gone: None, like)
        self.intake = Intake(resource, known)
        self.store = Store(AddressPlan(ip_network("10.96.0.0/16"), loopback_only=False, shared=True), "n1")
        self.zone = Zone(from_text("cluster.local"), PodMode.INSECURE)

    def upsert(self, thing) -> None:
        events = [Upsert(thing)]
        self.zone.apply(events, self.store.apply(events))

    def line(self, thing) -> None:
        self.raw(b'{"type":"MODIFIED","object":' + json.dumps(thing).encode() + b"}")

    def raw(self, line: bytes) -> None:
        self.intake.line(line)

    def is_sane(self) -> bool:
        """Everything that would be programmed is something that a kernel takes."""
        for port in self.store.desired.values():
            for frontend in port.frontends:
                vip = frontend.vip
                assert 0 < vip.port < 65536
                assert vip.protocol in Protocol
                assert not (isinstance(vip.ip, IPv6Address) and vip.ip.scope_id)
            for backend in port.endpoints:
                assert 0 < backend.port < 65536
                assert not special(backend.ip)
            assert str(port.name).isprintable()
            assert port.affinity_timeout_s is None or 0 < port.affinity_timeout_s <= 86400
        assert all(0 < number < 65536 for number in self.store.health_checks.values())
        return True


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_value_at_any_place_is_converted_or_left_out(kind, data):
    thing, resource = KINDS[kind]
    way = data.draw(st.sampled_from(sorted(places(thing), key=repr)))
    odd = replaced(thing, way, data.draw(ANY))
    world = World(resource())
    try:
        world.line(odd)
    except Trouble:
        assert not isinstance(odd, dict), "an object is no reason to end a watch"
    good = replaced(thing, ("metadata", "name"), "good" if kind != "node" else "n1")
    world.line(good)
    assert "good" in {name.name for name in world.store.services} or kind != "service"
    assert world.is_sane()
    world.intake.item(json.dumps(odd).encode())
    assert world.is_sane()


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize("depth", [99, 1_100, DEEP])
def test_depth_in_a_field_that_nobody_reads_is_no_matter(depth):
    world = World(services(None, False))
    text = json.dumps(SERVICE).encode()[:-1] + b',"managedFields":' + nested(depth) + b"}"
    world.raw(b'{"type":"ADDED","object":' + text + b"}")
    world.intake.item(text)
    assert (world.intake.skipped, len(world.store.services)) == (0, 1)


def test_depth_in_a_field_that_is_read_leaves_one_object_out():
    world = World(services(None, False))
    for field in (b'"spec":', b'"metadata":'):
        world.raw(b'{"type":"ADDED","object":{"kind":"Service",' + field + nested(DEEP) + b"}}")
    world.line(SERVICE)
    assert (world.intake.skipped, len(world.store.services)) == (1, 1)


@pytest.mark.parametrize("field", ["name", "zzz"])
def test_octets_that_are_no_text_leave_one_object_out_at_most(field):
    world = World(services(None, False))
    text = json.dumps(SERVICE | {"zzz": "HERE"}).encode()
    text = text.replace(b'"web"', b'"w\xff\xfe"') if field == "name" else text.replace(b"HERE", b"\xff\xfe")
    world.raw(b'{"type":"ADDED","object":' + text + b"}")
    assert world.intake.skipped + len(world.store.services) == 1
    world.line(SERVICE)
    assert len(world.store.services) == 1


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1", "127.255.0.1", "::1", "169.254.169.254", "fe80::1", "::ffff:127.0.0.1", "0.0.0.0", "::",
        "::ffff:0.0.0.0", "224.0.0.1", "ff02::1", "255.255.255.255", "::ffff:169.254.169.254", "fe80::1%eth0",
    ],
)  # fmt: skip
def test_an_endpoint_that_would_be_the_nodes_own_is_refused(text):
    world = World(endpoint_slices(None, False))
    world.store.apply([])
    world.line(replaced(SLICE, ("endpoints", 0, "addresses", 0), text))
    assert world.intake.skipped == 1
    world.line(SLICE)
    assert world.intake.skipped == 0


def test_a_port_out_of_range_leaves_its_service_out_and_no_other():
    for way in (("port",), ("targetPort",), ("nodePort",)):
        world = World(services(None, False))
        world.line(replaced(SERVICE, ("spec", "ports", 0, *way), 70000))
        world.line(replaced(SERVICE, ("metadata", "name"), "good"))
        assert [key.name for key in world.store.services] == ["good"]
        assert ip_address("10.96.0.10") in {
            frontend.vip.ip for p in world.store.desired.values() for frontend in p.frontends
        }
