"""PROXY headers, read by a parser written from the specification."""

import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.proxy_header import Header, parse
from uproxy.dataplane.relay.proxy_protocol import LOCAL, header

ports = st.integers(0, 65535)


def wire(ip, port: int) -> bytes:
    return struct.pack("!H", port) + ip.packed


@pytest.mark.parametrize("kind", [IPv4Address, IPv6Address])
@given(st.data(), ports, ports, st.binary(max_size=20))
def test_it_says_where_from_and_where_to_and_no_more(kind, data, source_port, target_port, said):
    ips = st.integers(0, 2**32 - 1 if kind is IPv4Address else 2**128 - 1).map(kind)
    source, target = data.draw(ips), data.draw(ips)
    made = header(wire(source, source_port), wire(target, target_port))
    found, rest = parse(made + said)
    assert rest == said
    assert [(kind(ip), port) for ip, port in found] == [(source, source_port), (target, target_port)]


def test_an_unknown_client_is_the_proxy_itself():
    assert parse(LOCAL + b"x") == (Header(None, None), b"x")
    assert len(LOCAL) == 16
