"""Addresses on `lo` in the place of local routes: marked, found again, and nobody else's is touched."""

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterator
from ipaddress import ip_address, ip_network
from typing import TypeVar

import pytest

from uproxy.kit.lab import Host, Lab
from uproxy.model.frontend import Backend, Changes, DesiredServicePort, Frontend, FrontendKind
from uproxy.model.names import IPNetwork, Protocol, ServicePortName, Vip
from uproxy.steering.cleanup import cleanup
from uproxy.steering.lo_addresses import LoAddresses, mark_of

T = TypeVar("T")
FOREIGN = ("172.30.0.77", "fd00:172:30::77")
OURS = ("172.30.0.1", "fd00:172:30::1")
OTHERS = ("172.30.0.2", "fd00:172:30::2")


@pytest.fixture
def node() -> Iterator[Host]:
    """A node whose `lo` has addresses of somebody else."""
    with Lab(pods=0) as lab:
        for ip in FOREIGN:
            lab.node.run("ip", "address", "add", ip, "dev", "lo")
        yield lab.node


def _run(node: Host, work: Callable[[], Coroutine[object, object, T]]) -> T:
    return node.inside(lambda: asyncio.run(work()))


def _addresses(node: Host) -> str:
    return node.run("ip", "address", "show", "dev", "lo").stdout


def _service(*addresses: str) -> DesiredServicePort:
    backend = Backend(ip_address("10.244.0.11"), 8080)
    ips = [ip_address(address) for address in addresses]
    frontends = (Frontend(Vip(ip, 80, Protocol.TCP), FrontendKind.CLUSTER_IP, ip.version) for ip in ips)
    name = ServicePortName("default", "web", "", Protocol.TCP)
    usable = {4: (backend,), 6: (backend,)}
    return DesiredServicePort(name=name, port=80, frontends=tuple(frontends), endpoints={}, usable=usable)


def _make(node: Host, target: LoAddresses, *addresses: str) -> dict[Vip, str]:
    return dict(_run(node, lambda: target.make(Changes(updated=(_service(*addresses),)))))


def _retire(node: Host, target: LoAddresses, *addresses: str) -> None:
    _run(node, lambda: target.retire(Changes(updated=(_service(*addresses),))))


def _listens(node: Host, ip: str) -> bool:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with node.socket(family) as listener:
        try:
            listener.bind((ip, 80))
        except OSError:
            return False
        return True


def _everyones(_port: DesiredServicePort, frontend: Frontend) -> list[IPNetwork]:
    return [ip_network(frontend.vip.ip)]


def test_they_come_and_go_with_what_needs_them(node: Host) -> None:
    before = _addresses(node)
    target = LoAddresses(_everyones)
    assert _make(node, target, *OURS) == {}
    assert all(_listens(node, ip) for ip in OURS)
    assert _make(node, target, *OTHERS) == {}
    assert all(_listens(node, ip) for ip in OURS + OTHERS)
    _retire(node, target, *OTHERS)
    assert not any(_listens(node, ip) for ip in OURS)
    _run(node, target.close)
    assert _addresses(node) == before


def test_an_address_that_was_there_serves_and_stays(node: Host) -> None:
    before = _addresses(node)
    target = LoAddresses(_everyones)
    assert _make(node, target, *FOREIGN) == {}
    assert _addresses(node) == before
    _run(node, target.close)
    assert _run(node, cleanup) == []
    assert _addresses(node) == before


def test_the_next_start_adopts_what_it_wants_and_removes_the_rest(node: Host) -> None:
    before = _addresses(node)
    assert _make(node, LoAddresses(_everyones), OURS[0], *OTHERS) == {}  # killed here
    target = LoAddresses(_everyones)
    assert _make(node, target, *OURS) == {}
    _run(node, target.prune)
    assert all(_listens(node, ip) for ip in OURS)
    assert not any(_listens(node, ip) for ip in OTHERS)
    _run(node, target.close)
    assert _addresses(node) == before


def test_cleanup_removes_them_and_says_so(node: Host) -> None:
    before = _addresses(node)
    assert _make(node, LoAddresses(_everyones), *OURS) == {}
    assert sorted(_run(node, cleanup)) == sorted(f"address {ip} on lo" for ip in OURS)
    assert _addresses(node) == before
    assert _run(node, cleanup) == []


def test_a_mark_of_nothing_goes_too(node: Host) -> None:
    before = _addresses(node)
    node.run("ip", "address", "add", str(mark_of(ip_address(OURS[0]))), "dev", "lo")
    assert _run(node, cleanup) == []
    assert _addresses(node) == before


def test_an_address_that_cannot_be_had_is_said(node: Host) -> None:
    node.run("sysctl", "-q", "-w", "net.ipv6.conf.all.disable_ipv6=1")
    problems = _make(node, LoAddresses(_everyones), *OURS)
    assert [str(vip.ip) for vip in problems] == list(OURS)
    assert all(reason.startswith("no address on lo ") for reason in problems.values())
