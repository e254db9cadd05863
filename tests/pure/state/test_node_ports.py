"""Which addresses serve NodePorts and health checks."""

from ipaddress import ip_address, ip_network

import pytest

from uproxy.model.node import Node, NodePortKeyword
from uproxy.state.node_ports import NodePortPlan, node_port_ips

OWN = tuple(map(ip_address, ("127.0.0.1", "192.168.0.7", "10.9.0.1", "fd00::7", "::1")))
NODE = Node("here", addresses=tuple(map(ip_address, ("192.168.0.7", "203.0.113.7", "fd00::7"))))
PRIMARY, LOCALHOST, ALL = NodePortKeyword


ULA, LAN = ip_network("fd00::/8"), ip_network("192.168.0.0/16")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        pytest.param([], "0.0.0.0 ::", id="nothing is said"),
        pytest.param([ALL], "0.0.0.0 ::", id="all"),
        pytest.param([ALL, LOCALHOST], "0.0.0.0 127.0.0.1 :: ::1", id="all and localhost"),
        pytest.param(
            [ip_network("0.0.0.0/0"), ip_network("127.0.0.0/8")], "0.0.0.0 127.0.0.1 ::", id="and networks"
        ),
        pytest.param([LAN], "192.168.0.7 ::", id="of one family only"),
        pytest.param([LAN, ULA], "192.168.0.7 fd00::7", id="of both"),
        pytest.param([ip_network("0.0.0.0/0"), ULA], "0.0.0.0 fd00::7", id="all of one"),
        pytest.param([ip_network("172.16.0.0/12")], "0.0.0.0 ::", id="none found"),
        pytest.param([PRIMARY], "192.168.0.7 fd00::7", id="primary"),
        pytest.param([LOCALHOST], "127.0.0.1 ::1", id="localhost"),
        pytest.param([PRIMARY, LOCALHOST], "127.0.0.1 192.168.0.7 ::1 fd00::7", id="both keywords"),
        pytest.param([PRIMARY, ip_network("10.0.0.0/8")], "10.9.0.1 192.168.0.7 fd00::7", id="mixed"),
    ],
)
def test_addresses(wanted, expected):
    assert node_port_ips(NodePortPlan(wanted), OWN, NODE) == tuple(map(ip_address, expected.split()))


def test_an_override_comes_before_what_the_node_says():
    ips = node_port_ips(NodePortPlan((PRIMARY,), ip_address("10.9.0.1")), OWN, NODE)
    assert ips == (ip_address("10.9.0.1"), ip_address("fd00::7"))


def test_without_a_node_primary_is_everywhere():
    assert node_port_ips(NodePortPlan((PRIMARY,)), OWN, None) == (ip_address("0.0.0.0"), ip_address("::"))
