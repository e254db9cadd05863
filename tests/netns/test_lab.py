"""The lab itself: hosts reach each other as drawn, and nothing is left when it ends."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from uproxy.errors import CommandFailed
from uproxy.kit.lab import Host, Lab, reason_unavailable

OWN_NETWORK = Path("/proc/thread-self/ns/net")
pytestmark = pytest.mark.skipif(reason_unavailable() is not None, reason=str(reason_unavailable()))


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


def _exchange(source: Host, target: Host, family: int) -> tuple[bytes, str]:
    """Send a line from one host to the other; what arrived, and from which address."""
    address = target.ip4 if family == socket.AF_INET else target.ip6
    with target.socket(family) as listener, source.socket(family) as caller:
        listener.settimeout(5)
        caller.settimeout(5)
        listener.bind((address, 0))
        listener.listen()
        caller.connect(listener.getsockname())
        accepted, peer = listener.accept()
        with accepted:
            caller.sendall(b"hello")
            return accepted.recv(16), peer[0]


def test_client_reaches_every_pod_through_the_node(lab: Lab) -> None:
    for pod in lab.pods:
        assert _exchange(lab.client, pod, socket.AF_INET) == (b"hello", lab.client.ip4)


def test_client_reaches_pods_over_ipv6(lab: Lab) -> None:
    for pod in lab.pods:
        assert _exchange(lab.client, pod, socket.AF_INET6) == (b"hello", lab.client.ip6)


def test_node_reaches_pods_from_the_bridge_address(lab: Lab) -> None:
    assert _exchange(lab.node, lab.pods[0], socket.AF_INET) == (b"hello", "10.244.0.1")


def test_pods_reach_each_other_and_the_client(lab: Lab) -> None:
    one, two = lab.pods[:2]
    assert _exchange(one, two, socket.AF_INET) == (b"hello", one.ip4)
    assert _exchange(one, lab.client, socket.AF_INET6) == (b"hello", one.ip6)


def test_node_has_no_default_route_unless_asked(lab: Lab) -> None:
    assert lab.node.run("ip", "route", "show", "default").stdout == ""
    with Lab(pods=1, node_default_route=True) as other:
        assert "via 10.200.0.2" in other.node.run("ip", "route", "show", "default").stdout
        assert "via fd00:10:200::2" in other.node.run("ip", "-6", "route", "show", "default").stdout


def test_programs_see_only_their_own_host(lab: Lab) -> None:
    addresses = lab.pods[1].run("ip", "-o", "-4", "addr", "show", "scope", "global").stdout
    assert "10.244.0.12/24" in addresses
    assert addresses.count("inet ") == 1


def test_run_feeds_input_and_returns_output(lab: Lab) -> None:
    assert lab.client.run("cat", input="as given\n").stdout == "as given\n"


def test_run_raises_with_the_programs_own_words(lab: Lab) -> None:
    with pytest.raises(CommandFailed, match=r"nothere0.* does not exist"):
        lab.node.run("ip", "link", "show", "dev", "nothere0")
    assert lab.node.run("false", check=False).returncode == 1


def test_inside_raises_in_the_caller_and_leaves_its_thread_alone(lab: Lab) -> None:
    before = OWN_NETWORK.readlink()
    with pytest.raises(ZeroDivisionError):
        lab.node.inside(lambda: 1 // 0)
    assert lab.node.inside(OWN_NETWORK.readlink) != before
    assert OWN_NETWORK.readlink() == before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("inside-")]


def test_sysctl_sets_one_host_only(lab: Lab) -> None:
    lab.client.sysctl("net.ipv4.tcp_tw_reuse", 1)
    assert lab.client.run("cat", "/proc/sys/net/ipv4/tcp_tw_reuse").stdout == "1\n"
    assert lab.node.run("cat", "/proc/sys/net/ipv4/tcp_tw_reuse").stdout != "1\n"


def test_everything_is_removed_after_an_exception() -> None:
    processes: list[subprocess.Popen[bytes]] = []
    names: list[str] = []

    def work() -> None:
        with Lab(pods=1) as lab:
            names.extend(host.name for host in lab.hosts)
            processes.append(lab.node.exec("sleep", "1000", stdout=subprocess.PIPE))
            raise RuntimeError("the test went wrong")

    with pytest.raises(RuntimeError, match="went wrong"):
        work()
    assert len(names) == 3
    assert not [name for name in names if Path("/run/netns", name).exists()]
    assert processes[0].returncode is not None


def test_two_labs_live_side_by_side(lab: Lab) -> None:
    with Lab(pods=1) as other:
        assert {host.name for host in lab.hosts}.isdisjoint(host.name for host in other.hosts)
        assert _exchange(other.client, other.pods[0], socket.AF_INET)[0] == b"hello"
    assert _exchange(lab.client, lab.pods[0], socket.AF_INET)[0] == b"hello"


def test_strays_of_a_dead_process_are_removed_and_those_of_a_live_one_kept(lab: Lab) -> None:
    script = "import os; from uproxy.kit.lab import Lab; Lab(pods=0).__enter__(); os._exit(0)"
    child = subprocess.Popen([sys.executable, "-c", script])
    assert child.wait(30) == 0
    strays = f"upx{child.pid}-*"
    assert len(list(Path("/run/netns").glob(strays))) == 2
    Lab.remove_strays()
    assert not list(Path("/run/netns").glob(strays))
    assert all(Path("/run/netns", host.name).exists() for host in lab.hosts)
