"""Where a path is built: three kinds of host, which are namespaces, or this machine's loopback.

Owns addresses and starting programs so that they end with this one. Needs root for the lab,
which is the better site: every host has a network stack of its own there, as in a cluster.
"""

import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Protocol, TypeVar

import uproxy
from uproxy.errors import CommandFailed
from uproxy.kit.commands import environment, find_program
from uproxy.kit.lab import Lab

T = TypeVar("T")

POD_NAMES = ("pod1", "pod2", "pod3")
PODS = len(POD_NAMES)
POD_PORT = 8080
VIP_PORT = 8000

_LOOPBACK_PODS = ("127.0.0.11", "127.0.0.12", "127.0.0.13")
_DIES_WITH_US = "--pdeathsig=KILL"


class Place(Protocol):
    """A host: somewhere programs run and sockets live."""

    def exec(self, *argv: str, **popen: Any) -> subprocess.Popen[Any]:  # noqa: ANN401  Popen's own
        """Start a program there; the keywords are Popen's."""

    def socket(self, family: int = ..., type: int = ...) -> socket.socket:
        """Make a socket there."""

    def inside(self, function: Callable[[], T]) -> T:
        """Call `function` as a program there would."""


@dataclass(frozen=True, slots=True)
class Pod:
    """One endpoint: its name, where its server listens, and the host to start it on."""

    name: str
    ip: str
    port: int
    place: Place


@dataclass(frozen=True, slots=True)
class Site:
    """The hosts of one path."""

    client: Place
    node: Place
    node_ip: str
    """Where proxies that know no VIP listen."""
    pods: tuple[Pod, ...]
    vip_prefix: str
    """First three bytes of the VIPs."""
    lab: Lab | None
    """None on loopback, where the kernel cannot be told to forward."""

    def vip(self, number: int) -> str:
        """The VIP of the site's Service with that number."""
        return f"{self.vip_prefix}.{10 + number}"


@contextmanager
def lab_site() -> Iterator[Site]:
    """A client, a node and pods, each a namespace, set up so that nothing but the path differs.

    Raises CommandFailed.
    """
    with Lab(pods=PODS) as lab:
        _prepare(lab)
        pods = tuple(Pod(f"pod{number}", host.ip4, POD_PORT, host) for number, host in enumerate(lab.pods, 1))
        yield Site(lab.client, lab.node, lab.node.ip4, pods, "10.96.0", lab)


def _prepare(lab: Lab) -> None:
    for host in lab.hosts:
        # BBR, where it is the machine's default, paces each stream by its own estimate: streams
        # would measure that. Reno is in every kernel, and only the receiver holds it back here.
        host.sysctl("net.ipv4.tcp_congestion_control", "reno")
        # Ports enough for thousands of closes; below them are those that proxies listen on.
        host.sysctl("net.ipv4.ip_local_port_range", "12000 65535")
        host.sysctl("net.ipv4.tcp_tw_reuse", 1)
        # A burst of connections is part of the work; a full backlog would be a 1 s retransmission.
        host.sysctl("net.core.somaxconn", 4096)
    lab.node.sysctl("net.netfilter.nf_conntrack_tcp_timeout_time_wait", 1)
    # As systemd sets it. Where it is 0 the kernel checks no sender, but on a node that has local routes, as
    # uproxy makes them; then all connections that pass the node would pay for that, and not for the path.
    lab.node.sysctl("net.ipv4.conf.all.rp_filter", 2)


class ThisMachine:
    """Where this process runs."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[Any]] = []

    def exec(self, *argv: str, **popen: Any) -> subprocess.Popen[Any]:  # noqa: ANN401  Popen's own
        """Start a program here; the keywords are Popen's."""
        process = subprocess.Popen(argv, **popen)
        self._started.append(process)
        return process

    def socket(self, family: int = socket.AF_INET, type: int = socket.SOCK_STREAM) -> socket.socket:
        """Make a socket here."""
        return socket.socket(family, type)

    def inside(self, function: Callable[[], T]) -> T:
        """Call `function`."""
        return function()

    def end_programs(self) -> None:
        """Kill what still runs."""
        for process in self._started:
            process.kill()
            process.wait()


_numbers = count()
"""Paths stand side by side, and each has VIPs of its own: two cannot listen on one."""


@contextmanager
def loopback_site() -> Iterator[Site]:
    """Everything on this machine's loopback, which needs no privilege."""
    here = ThisMachine()
    pods = tuple(
        Pod(name, ip, free_port(ip), here) for name, ip in zip(POD_NAMES, _LOOPBACK_PODS, strict=True)
    )
    try:
        yield Site(here, here, "127.0.0.1", pods, f"127.{96 + next(_numbers) % 128}.0", None)
    finally:
        here.end_programs()


def free_port(ip: str) -> int:
    """A port on which nobody listens just now, for TCP."""
    with socket.socket() as probe:
        probe.bind((ip, 0))
        port: int = probe.getsockname()[1]
        return port


def accepts(place: Place, ip: str, port: int) -> bool:
    """Whether a TCP connection from `place` is taken."""
    with place.socket() as caller:
        caller.settimeout(1)
        return caller.connect_ex((ip, port)) == 0


def start(place: Place, *argv: str, **popen: Any) -> subprocess.Popen[Any]:  # noqa: ANN401  Popen's own
    """Start a program of this benchmark: it finds this uproxy, and ends when this process does.

    A session of its own keeps the terminal's Ctrl-C from it: what was measured is kept first.
    """
    ours = environment() | {"PYTHONPATH": str(Path(uproxy.__file__).parents[1])}
    return place.exec(*_tied(), *argv, start_new_session=True, env=ours, **popen)


@cache
def _tied() -> tuple[str, ...]:
    program = find_program("setpriv")  # of util-linux; busybox has one without this flag
    if program is None:
        return ()
    done = subprocess.Popen(
        [program, _DIES_WITH_US, "true"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return () if done.wait() else (program, _DIES_WITH_US)


def program(name: str) -> str:
    """The path of an installed program.

    Raises CommandFailed.
    """
    path = find_program(name)
    if path is None:
        raise CommandFailed(f"{name} is not installed")
    return path
