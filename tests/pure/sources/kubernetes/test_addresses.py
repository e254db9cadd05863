from ipaddress import ip_address, ip_network

import pytest

from uproxy.sources.kubernetes.addresses import addresses, networks, parse_address


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("fd00::1", "fd00::1"),
        pytest.param("010.000.0.08", "10.0.0.8", id="leading zeros are decimal"),
        pytest.param("::ffff:10.0.0.1", "10.0.0.1", id="IPv4 in IPv6"),
        pytest.param("100.20.10.0", "100.20.10.0", id="zeros that do not lead"),
    ],
)
def test_an_address(text, meant):
    assert parse_address(text) == ip_address(meant)


@pytest.mark.parametrize("text", ["", "host", "10.0.0", "10.0.0.256", "None"])
def test_no_address(text):
    with pytest.raises(ValueError, match="IPv4 or IPv6"):
        parse_address(text)


def test_an_address_that_is_given_twice_counts_once():
    assert addresses(["10.0.0.1", "10.0.0.2", "010.0.0.1"]) == (
        ip_address("10.0.0.1"),
        ip_address("10.0.0.2"),
    )


def test_networks_may_have_spaces_around_and_bits_beyond():
    assert networks([" 203.0.113.7/24 ", "\t2001:db8::/32", "010.0.0.0/8"]) == (
        ip_network("203.0.113.0/24"),
        ip_network("2001:db8::/32"),
        ip_network("10.0.0.0/8"),
    )
