"""What programming counts and times, as kube-proxy does."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from uproxy.model.endpoint import Endpoint, EndpointSlice, SlicePort
from uproxy.model.events import Delete, Synced, Upsert
from uproxy.model.names import NamespacedName, Protocol
from uproxy.model.service import Service, ServicePort
from uproxy.reconcile.record import NETWORK_BUCKETS_S, Record
from uproxy.state.addresses import AddressPlan
from uproxy.state.store import Store

STARTED_S = 1000.0
WEB = NamespacedName("default", "web")
SERVICE = Service(WEB, (ServicePort("", Protocol.TCP, 80, 80),))


def piece(since_s: float | None, *hosts: str) -> EndpointSlice:
    endpoints = tuple(Endpoint(ip_address(host)) for host in hosts or ("10.0.0.1",))
    ports = (SlicePort("", Protocol.TCP, 80),)
    return EndpointSlice(NamespacedName("default", "web-1"), WEB, ports, endpoints, triggered_at_s=since_s)


class Rig:
    def __init__(self) -> None:
        self.wall_s = STARTED_S
        self.store = Store(AddressPlan(ip_network("10.96.0.0/16"), loopback_only=False))
        self.record = Record(lambda: self.wall_s)

    def program(self, *events, at_s: float, troubled=()) -> None:
        for event in events:
            self.record.queued(event)
        self.record.begun(events, self.store.known_slice)
        self.store.apply(events)
        self.wall_s = at_s
        self.record.programmed(troubled)

    def seen(self, family=4) -> tuple[int, float]:
        latency = self.record.network_latency[family]
        return sum(latency.counts), latency.sum_s


@pytest.fixture
def rig():
    return Rig()


def test_a_change_is_timed_from_its_trigger_to_its_programming(rig):
    rig.program(Upsert(piece(STARTED_S + 1)), at_s=STARTED_S + 4)
    assert rig.seen() == (1, 3.0)
    assert rig.seen(6) == (0, 0.0)
    rig.program(Upsert(piece(STARTED_S + 5, "fd00::1")), at_s=STARTED_S + 5.5)
    assert rig.seen(6) == (1, 0.5)


@pytest.mark.parametrize("since_s", [None, STARTED_S - 1, STARTED_S])
def test_what_happened_before_the_start_is_not_timed(rig, since_s):
    rig.program(Upsert(piece(since_s)), at_s=STARTED_S + 4)
    assert rig.seen() == (0, 0.0)


def test_deletions_are_not_timed(rig):
    rig.program(Delete(piece(STARTED_S + 1)), at_s=STARTED_S + 4)
    assert rig.seen() == (0, 0.0)


def test_the_same_again_is_not_timed(rig):
    rig.program(Upsert(piece(STARTED_S + 1)), at_s=STARTED_S + 2)
    rig.program(Upsert(piece(STARTED_S + 1)), at_s=STARTED_S + 3600)
    assert rig.seen() == (1, 1.0)


def test_what_could_not_be_programmed_is_still_on_its_way(rig):
    rig.program(Upsert(piece(STARTED_S + 1)), at_s=STARTED_S + 2, troubled={WEB})
    assert rig.seen() == (0, 0.0)
    rig.program(at_s=STARTED_S + 11)
    assert rig.seen() == (1, 10.0)


def test_clocks_that_disagree_make_no_negative_times(rig):
    rig.program(Upsert(piece(STARTED_S + 60)), at_s=STARTED_S + 2)
    assert rig.seen() == (1, 0.0)


def test_buckets_are_kube_proxys():
    assert NETWORK_BUCKETS_S[:4] == (0.0, 0.25, 0.5, 1.0)
    assert NETWORK_BUCKETS_S[-8:] == (115.0, 120.0, 150.0, 180.0, 210.0, 240.0, 270.0, 300.0)
    assert len(NETWORK_BUCKETS_S) == 1 + 2 + 59 + 12 + 7


def test_changes_are_pending_until_programming_begins(rig):
    record = rig.record
    for event in (
        Upsert(SERVICE),
        Upsert(piece(None)),
        Upsert(replace(piece(None), endpoints=())),
        Synced("x"),
    ):
        record.queued(event)
    assert (record.services.pending, record.endpoints.pending) == (1, 2)
    record.begun((), rig.store.known_slice)
    assert (record.services.pending, record.endpoints.pending) == (0, 0)
    assert (record.services.total, record.endpoints.total) == (1, 2)


def test_moments_are_of_the_wall_clock(rig):
    assert (rig.record.queued_at_s, rig.record.programmed_at_s) == (0.0, 0.0)
    rig.program(Upsert(SERVICE), at_s=STARTED_S + 7)
    assert (rig.record.queued_at_s, rig.record.programmed_at_s) == (STARTED_S, STARTED_S + 7)
