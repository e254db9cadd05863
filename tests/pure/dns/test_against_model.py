"""Random objects, random changes, random questions: every answer is what the slow model says."""

import dns.message
import dns.rcode
import dns.rdatatype
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pure.dns import model
from tests.pure.dns.rig import Server
from uproxy.dns.pods import PodMode
from uproxy.model.endpoint import Endpoint, EndpointSlice, SlicePort
from uproxy.model.events import Delete, Upsert
from uproxy.model.names import NamespacedName, Protocol
from uproxy.model.service import Service, ServicePort, ServiceType

NAMES = ("web", "db", "0x", "s" * 63)
NAMESPACES = ("default", "1ns")
keys = st.builds(NamespacedName, st.sampled_from(NAMESPACES), st.sampled_from(NAMES))
protocols = st.sampled_from(list(Protocol))
port_names = st.sampled_from(("", "http", "9p"))
numbers = st.integers(1, 4)
pod_ips = st.ip_addresses(network="10.0.0.0/30") | st.ip_addresses(network="fd00::/126")


def unique(items, of):
    return st.lists(items, max_size=3, unique_by=of).map(tuple)


ports = unique(
    st.builds(lambda n, p, number: ServicePort(n, p, number, number), port_names, protocols, numbers),
    lambda port: (port.name, port.protocol),
)
slice_ports = unique(
    st.builds(SlicePort, port_names, protocols, numbers), lambda port: (port.name, port.protocol)
)
endpoints = unique(
    st.builds(Endpoint, pod_ips, ready=st.booleans(), hostname=st.sampled_from(("", "a", "b"))), id
)
targets = st.sampled_from(
    (
        "example.com",
        "web.default.svc.cluster.local",
        "DB.1ns.svc.cluster.local",
        "x.db.default.svc.cluster.local",
    )
)
# Every Service has addresses of its own: who gets an address that two claim is the store's business.
cluster = st.builds(
    lambda key, its, six: Service(key, its, cluster_ips=_own_ips(key, six=six)),
    keys,
    ports.filter(bool),
    st.booleans(),
)
headless = st.builds(
    lambda key, its, all_: Service(key, its, headless=True, publish_not_ready_addresses=all_),
    keys,
    ports,
    st.booleans(),
)
external = st.builds(
    lambda key, to: Service(key, (), type=ServiceType.EXTERNAL_NAME, external_name=to), keys, targets
)
services = cluster | headless | external
slices = st.builds(
    lambda home, name, its, members: EndpointSlice(
        NamespacedName(home.namespace, f"{home.name}-{name}"), home, its, members
    ),
    keys,
    st.sampled_from("12"),
    slice_ports,
    endpoints,
)
changes = st.lists(st.tuples(st.booleans(), services | slices), max_size=14)


def _own_ips(key, *, six):
    from ipaddress import ip_address

    number = NAMES.index(key.name) + 1 + 16 * NAMESPACES.index(key.namespace)
    return (ip_address(f"172.30.0.{number}"), *((ip_address(f"fd01::{number}"),) if six else ()))


def fold(steps):
    """The objects that are left, and the events."""
    left, events = {}, []
    for present, thing in steps:
        place = (type(thing), thing.key)
        if present:
            left[place] = thing
            events.append(Upsert(thing))
        elif place in left:
            events.append(Delete(left.pop(place)))
    return [left[place] for place in left], events


def questions(known):
    """Names that exist, names beside and around them, and names of no kind."""
    names = set(known) | {"example.com.", "x.cluster.local.", "in-addr.arpa."}
    for name in list(names):
        labels = name.split(".")
        names |= {".".join(labels[cut:]) for cut in range(1, len(labels) - 1)}
        names |= {f"x.{name}" for name in (name,) if len(name) < 240}
    return sorted(names)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(changes, min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_every_answer_is_what_the_model_says(batches, random):
    server = Server(pods=PodMode.INSECURE)
    left, _ = fold([step for batch in batches for step in batch])
    _, events = fold([step for batch in batches for step in batch])
    cut = len(events) // 2
    server.apply(events[:cut])  # what was there in between must leave nothing behind
    server.apply(events[cut:])
    known = model.records(
        [thing for thing in left if isinstance(thing, Service)],
        [thing for thing in left if isinstance(thing, EndpointSlice)],
    )
    namespaces = {thing.key.namespace for thing in left}
    for name in questions(known):
        for kind in ("A", "AAAA", "SRV", "PTR", "CNAME", "TXT"):
            check(server, known, namespaces, name, kind, random)


def check(server, known, namespaces, name, kind, random):
    asked = "".join(random.choice((letter.upper(), letter)) for letter in name)
    read = server.ask(asked, kind)
    rcode, answer = model.expected(known, namespaces, name, kind)
    got = {
        (str(rrset.name).lower(), dns.rdatatype.to_text(rrset.rdtype), str(rdata).replace("\\", ""))
        for rrset in read.answer
        for rdata in rrset
    }
    assert (dns.rcode.to_text(read.rcode()), got) == (rcode, answer), f"{name} {kind}"
    assert len(got) == sum(len(rrset) for rrset in read.answer)
    assert str(read.question[0].name) == asked
    absent = not answer and rcode in ("NOERROR", "NXDOMAIN")
    if absent:
        assert [dns.rdatatype.to_text(rrset.rdtype) for rrset in read.authority] == ["SOA"]
        assert read.question[0].name.is_subdomain(read.authority[0].name)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(changes)
def test_changes_end_where_a_fresh_start_does(steps):
    left, events = fold(steps)
    server = Server()
    for event in events:
        server.apply([event])
    fresh = Server(*left)
    assert tables(server) == tables(fresh)


HOME = NamespacedName("default", "db")
one_headless = st.builds(
    lambda its, all_: Service(HOME, its, headless=True, publish_not_ready_addresses=all_),
    ports,
    st.booleans(),
)
slices_of_one = st.builds(
    lambda name, its, members: EndpointSlice(NamespacedName("default", f"db-{name}"), HOME, its, members),
    st.sampled_from("123"),
    slice_ports,
    unique(
        st.builds(Endpoint, pod_ips, ready=st.booleans(), hostname=st.sampled_from(("", "a", "_tcp"))), id
    ),
)
steps_of_one = st.lists(
    st.tuples(st.sampled_from((True, True, True, False)), one_headless | slices_of_one), max_size=12
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(one_headless, steps_of_one)
def test_a_headless_service_is_after_every_change_as_if_it_were_made_anew(first, steps):
    """Its names are changed one by one: only the endpoints that differ are made."""
    _, events = fold([(True, first), *steps])
    server = Server()
    for step, event in enumerate(events, 1):
        server.apply([event])
        left, _ = fold([(isinstance(each, Upsert), each.object) for each in events[:step]])
        assert tables(server) == tables(Server(*left))


def tables(server):
    return {
        name: {found.asked: (set(found.records), set(found.additional)) for found in sets}
        for name, sets in server.zone.names.items()
    }
