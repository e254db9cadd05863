"""A small cluster of network namespaces: a client, a node, and pods, each a host of its own.

    client 10.200.0.2 ---- 10.200.0.1 node 10.244.0.1 --+-- pod1 10.244.0.11
                                                        +-- pod2 10.244.0.12 ...

Owns making the hosts, entering them, and leaving nothing behind. The node forwards; clients
and pods have their default route through it. Refuses to know what runs inside. Needs root.
"""

import ctypes
import itertools
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from uproxy.errors import CommandFailed
from uproxy.kit.commands import environment, find_program

T = TypeVar("T")

POD_GATEWAY4 = "10.244.0.1"
POD_GATEWAY6 = "fd00:10:244::1"
"""The node, as its pods see it."""

_NAMESPACES = Path("/run/netns")
_NAME = re.compile(r"upx(\d+)-\d+-\w+")
_CLONE_NEWNET = 0x40000000
_counter = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Host:
    """One namespace. `ip4` and `ip6` are where the other hosts reach it."""

    name: str
    ip4: str
    ip6: str
    _started: list[subprocess.Popen[Any]] = field(default_factory=list, repr=False, compare=False)

    def exec(self, *argv: str, **popen: Any) -> subprocess.Popen[Any]:  # noqa: ANN401  Popen's own
        """Start a program inside; the keywords are Popen's. It is killed when the lab ends."""
        popen.setdefault("env", environment())
        process = subprocess.Popen(["ip", "netns", "exec", self.name, *argv], **popen)
        self._started.append(process)
        return process

    def run(
        self, *argv: str, input: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside to its end, and return its output as text.

        Raises CommandFailed, with what it printed, when `check` and its status is not 0.
        """
        return _run("ip", "netns", "exec", self.name, *argv, stdin=input or "", check=check)

    def inside(self, function: Callable[[], T]) -> T:
        """Call `function` inside this namespace, in a thread made for it, and return its result."""
        results: list[T] = []
        errors: list[BaseException] = []

        def enter() -> None:
            try:
                _set_namespace(_NAMESPACES / self.name)
                results.append(function())
            except BaseException as error:  # noqa: BLE001  raised again in the caller's thread
                errors.append(error)

        thread = threading.Thread(target=enter, name=f"inside-{self.name}")
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def socket(self, family: int = socket.AF_INET, type: int = socket.SOCK_STREAM) -> socket.socket:
        """Make a socket that belongs to this namespace for life, usable from any thread or loop."""
        return self.inside(lambda: socket.socket(family, type))

    def sysctl(self, name: str, value: int | str) -> None:
        """Set `net.*` of this namespace alone, such as `net.ipv4.ip_forward`."""
        # A name may hold dots of its own only inside an interface; none of ours does.
        path = Path("/proc/sys", name.replace(".", "/"))
        self.inside(lambda: path.write_text(str(value)))

    def pids(self) -> list[int]:
        """List the processes that live inside."""
        return [int(pid) for pid in _run("ip", "netns", "pids", self.name).stdout.split()]

    def end_programs(self) -> None:
        """Kill what still runs inside, started here or by what was started here."""
        for process in self._started:
            process.kill()
        for pid in self.pids():
            _kill(pid)
        for process in self._started:
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        self._started.clear()


class Lab:
    """The namespaces, from `with Lab() as lab:` to its end.

    The node has no default route, as a node in an air-gapped cluster; `node_default_route`
    gives it one through the client. The pods share a bridge; `routed_pods` have a link each, as
    Calico's do, so that they reach each other through the node only.
    """

    def __init__(self, *, pods: int = 3, node_default_route: bool = False, routed_pods: bool = False) -> None:
        prefix = f"upx{os.getpid()}-{next(_counter)}-"
        self.client = Host(f"{prefix}client", "10.200.0.2", "fd00:10:200::2")
        self.node = Host(f"{prefix}node", "10.200.0.1", "fd00:10:200::1")
        self.pods = tuple(
            Host(f"{prefix}pod{number}", f"10.244.0.{10 + number}", f"fd00:10:244::{10 + number}")
            for number in range(1, pods + 1)
        )
        self._node_default_route = node_default_route
        self._routed_pods = routed_pods

    @property
    def hosts(self) -> tuple[Host, ...]:
        """All namespaces of this lab."""
        return (self.client, self.node, *self.pods)

    def __enter__(self) -> Self:
        self.remove_strays()
        try:
            self._create()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._remove()

    @staticmethod
    def remove_strays() -> None:
        """Remove the namespaces of labs whose process is gone, and end what still runs in them."""
        names = [path.name for path in _NAMESPACES.glob("upx*")]
        for name in names:
            match = _NAME.fullmatch(name)
            if match and not Path("/proc", match[1]).exists():
                for pid in _run("ip", "netns", "pids", name, check=False).stdout.split():
                    _kill(int(pid))
                _run("ip", "netns", "delete", name, check=False)

    def _create(self) -> None:
        _batch(None, [f"netns add {host.name}" for host in self.hosts])
        for host in self.hosts:
            # Addresses, link-local ones too, work at once instead of after a second of DAD.
            host.sysctl("net.ipv6.conf.default.accept_dad", 0)
        _batch(self.node, self._node_commands())
        for host in (self.client, *self.pods):
            _batch(host, self._edge_commands(host))
        self.node.sysctl("net.ipv4.ip_forward", 1)
        self.node.sysctl("net.ipv6.conf.all.forwarding", 1)

    def _node_commands(self) -> list[str]:
        commands = [
            "link set lo up",
            f"link add client type veth peer name eth0 netns {self.client.name}",
            *_address_commands("client", self.node.ip4, self.node.ip6),
            "link add pods type bridge forward_delay 0 mcast_snooping 0",
            *_address_commands("pods", POD_GATEWAY4, POD_GATEWAY6),
        ]
        for number, pod in enumerate(self.pods, 1):
            commands.append(f"link add pod{number} type veth peer name eth0 netns {pod.name}")
            commands += _routed_commands(number, pod) if self._routed_pods else _bridged_commands(number)
        if self._node_default_route:
            commands += _default_route_commands(self.client.ip4, self.client.ip6)
        return commands

    def _edge_commands(self, host: Host) -> list[str]:
        if self._routed_pods and host is not self.client:
            return _routed_pod_commands(host)
        gateways = (self.node.ip4, self.node.ip6) if host is self.client else (POD_GATEWAY4, POD_GATEWAY6)
        return [
            "link set lo up",
            *_address_commands("eth0", host.ip4, host.ip6),
            *_default_route_commands(*gateways),
        ]

    def _remove(self) -> None:
        for host in self.hosts:
            if (_NAMESPACES / host.name).exists():
                host.end_programs()
                _run("ip", "netns", "delete", host.name, check=False)


@cache
def reason_unavailable() -> str | None:
    """Why no lab can be made here, in words fit for a test's skip; None when one can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if find_program("ip") is None:
        return "ip is not installed (apt-get install iproute2)"
    try:
        with Lab(pods=0):
            return None
    except (CommandFailed, OSError) as error:
        return f"network namespaces cannot be made: {error}"


def _bridged_commands(number: int) -> list[str]:
    return [f"link set pod{number} master pods up"]


def _routed_commands(number: int, pod: Host) -> list[str]:
    """On the node. The bridge stays, without a port, and has the gateway's addresses."""
    return [
        f"link set pod{number} up",
        f"addr add {POD_GATEWAY4}/32 dev pod{number}",
        f"addr add {POD_GATEWAY6}/128 dev pod{number} nodad",
        f"route add {pod.ip4}/32 dev pod{number}",
        f"route add {pod.ip6}/128 dev pod{number}",
    ]


def _routed_pod_commands(pod: Host) -> list[str]:
    return [
        "link set lo up",
        "link set eth0 up",
        f"addr add {pod.ip4}/32 dev eth0",
        f"addr add {pod.ip6}/128 dev eth0 nodad",
        f"route add {POD_GATEWAY4}/32 dev eth0",
        f"route add {POD_GATEWAY6}/128 dev eth0",
        *_default_route_commands(POD_GATEWAY4, POD_GATEWAY6),
    ]


def _address_commands(device: str, ip4: str, ip6: str) -> list[str]:
    return [
        f"link set {device} up",
        f"addr add {ip4}/24 dev {device}",
        f"addr add {ip6}/64 dev {device} nodad",
    ]


def _default_route_commands(ip4: str, ip6: str) -> list[str]:
    return [f"route add default via {ip4}", f"route add ::/0 via {ip6}"]


def _batch(host: Host | None, commands: list[str]) -> None:
    where = ("-n", host.name) if host else ()
    _run("ip", *where, "-batch", "-", stdin="\n".join(commands) + "\n")


def _run(*argv: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(  # noqa: TID251  tests and benchmarks are synchronous here
        argv, input=stdin, capture_output=True, text=True, check=False, env=environment()
    )
    if check and done.returncode:
        words = (done.stderr or done.stdout).strip()
        raise CommandFailed(f"{' '.join(argv)}: exit {done.returncode}: {words}")
    return done


def _set_namespace(path: Path) -> None:
    # os.setns came with Python 3.12.
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("rb") as handle:
        if libc.setns(handle.fileno(), _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
