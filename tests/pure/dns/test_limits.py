"""Who is answered, and how much."""

from ipaddress import ip_network

import pytest

from uproxy.dns.limits import Gate, Verdict


@pytest.mark.parametrize(
    "client",
    ["127.0.0.1", "10.1.2.3", "172.31.0.1", "192.168.1.1", "100.64.0.1", "169.254.20.10", "::1", "fd00::1"],
)
def test_private_networks_are_served(client):
    assert Gate().admit(client, 0) is Verdict.ANSWER
    assert Gate().serves(client)


@pytest.mark.parametrize("client", ["203.0.113.1", "172.32.0.1", "8.8.8.8", "2001:db8::1", "0.0.0.0"])
def test_others_are_refused(client):
    gate = Gate()
    assert [gate.admit(client, 0) for _ in range(3)] == [Verdict.REFUSE] * 3
    assert not gate.serves(client)


def test_a_link_local_client_with_its_interface():
    assert Gate().admit("fe80::1%eth0", 0) is Verdict.ANSWER


def test_networks_of_the_cluster_are_served_too():
    gate = Gate([ip_network("203.0.113.0/24")])
    assert gate.admit("203.0.113.1", 0) is Verdict.ANSWER
    assert gate.admit("203.0.114.1", 0) is Verdict.REFUSE


def test_beyond_the_rate_some_are_told_to_come_by_tcp_until_the_next_second():
    gate = Gate(answers_a_second=3)
    verdicts = [gate.admit("10.0.0.1", 5.2) for _ in range(7)]
    assert verdicts[:3] == [Verdict.ANSWER] * 3
    assert sorted(verdicts[3:], key=str) == [Verdict.DROP] * 2 + [Verdict.SLIP] * 2
    assert gate.admit("10.0.0.2", 5.9) is Verdict.ANSWER
    assert gate.admit("10.0.0.1", 6.0) is Verdict.ANSWER


def test_an_ipv6_network_of_64_bits_shares_a_rate():
    gate = Gate(answers_a_second=2)
    assert [gate.admit(f"fd00::{number}", 1) for number in range(3)] == [
        Verdict.ANSWER,
        Verdict.ANSWER,
        Verdict.SLIP,
    ]
    assert gate.admit("fd00:0:0:1::1", 1) is Verdict.ANSWER


def test_loopback_has_no_rate():
    gate = Gate(answers_a_second=1)
    assert {gate.admit("127.0.0.1", 1) for _ in range(5)} == {Verdict.ANSWER}


def test_what_is_remembered_of_clients_is_bounded():
    gate = Gate()
    for number in range(70_000):
        gate.admit(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1)
    assert len(gate._buckets) <= 65_536
