"""Counters of the kernel that begin anew, end and come late."""

from ipaddress import ip_address

from uproxy.handoff.ipvs_tally import Tally
from uproxy.handoff.mechanism import Counts
from uproxy.kernel.ipvs import Traffic
from uproxy.model.frontend import Backend
from uproxy.model.names import Protocol, ServicePortName, Vip

WEB = ServicePortName("default", "web", "", Protocol.TCP)
VIP = Vip(ip_address("10.96.0.1"), 80, Protocol.TCP)
OTHER = Vip(ip_address("203.0.113.7"), 80, Protocol.TCP)
POD = Backend(ip_address("10.244.0.1"), 8080)
KEY = WEB, POD
SOME = Traffic(
    connections=1, packets_in=5, packets_out=4, bytes_in=5 * 52 + 8 + 100, bytes_out=4 * 52 + 8 + 30
)


def test_headers_are_taken_off() -> None:
    assert Tally().tell([(WEB, VIP, POD, SOME)]) == {KEY: Counts(1, 100, 30)}


def test_two_addresses_of_a_port_are_added_up() -> None:
    assert Tally().tell([(WEB, VIP, POD, SOME), (WEB, OTHER, POD, SOME)]) == {KEY: Counts(2, 200, 60)}


def test_what_was_there_before_is_not_told() -> None:
    tally = Tally()
    tally.begins(VIP, POD, SOME)
    twice = Traffic(*(2 * one for one in SOME))
    assert tally.tell([(WEB, VIP, POD, twice)]) == {KEY: Counts(1, 100, 30)}


def test_a_destination_that_comes_back_goes_on() -> None:
    tally = Tally()
    tally.begins(VIP, POD, Traffic())
    tally.ends(WEB, VIP, POD, SOME)
    assert tally.tell([]) == {KEY: Counts(1, 100, 30)}
    tally.begins(VIP, POD, SOME)  # the kernel has kept its counters
    assert tally.tell([(WEB, VIP, POD, SOME)]) == {KEY: Counts(1, 100, 30)}


def test_what_nobody_owned_is_nobodys() -> None:
    tally = Tally()
    tally.ends(None, VIP, POD, SOME)
    assert tally.tell([]) == {}


def test_counts_never_go_back() -> None:
    tally = Tally()
    small = Traffic(1, 6, 4, SOME.bytes_in + 20, SOME.bytes_out)  # a segment without timestamps
    tally.tell([(WEB, VIP, POD, SOME)])
    assert tally.tell([(WEB, VIP, POD, small)]) == {KEY: Counts(1, 100, 30)}


def test_the_forgotten_have_been_told_to_the_end() -> None:
    tally = Tally()
    tally.ends(WEB, VIP, POD, SOME)
    assert tally.forget(()) == []
    tally.tell([])
    assert tally.forget({KEY}) == []
    assert tally.forget(()) == [KEY]
    assert tally.tell([]) == {}
