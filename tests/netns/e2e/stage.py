"""A lab with pods that answer, one Service in front of them, and a proxy on the node."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.manifests import Manifest, endpoint_slice, replace_file, service, text_of
from tests.netns.e2e.servers import TCP_PORT, UDP_PORT, Greeter
from tests.netns.kernel_state import kernel_state
from tests.proxy_process import UPROXY, Address, ProxyProcess
from uproxy.kit.lab import Host, Lab

CLUSTER_IPS = ("172.30.0.1", "fd00:172:30::1")
WEB = tuple((ip, 80) for ip in CLUSTER_IPS)
DNS = tuple((ip, 53) for ip in CLUSTER_IPS)
"""The Service's VIPs, for TCP and for UDP: IPv4 first, then IPv6."""

_SERVICE_PORTS: tuple[Manifest, ...] = (
    {"name": "web", "port": 80, "protocol": "TCP"},
    {"name": "dns", "port": 53, "protocol": "UDP"},
)
_SLICE_PORTS: tuple[Manifest, ...] = (
    {"name": "web", "port": TCP_PORT, "protocol": "TCP"},
    {"name": "dns", "port": UDP_PORT, "protocol": "UDP"},
)


@dataclass(frozen=True)
class Way:
    """How the proxy under test captures traffic, and relays it."""

    name: str
    flags: tuple[str, ...]

    def __str__(self) -> str:
        return self.name

    @property
    def redirects(self) -> bool:
        return "bind" not in self.flags

    @property
    def by_python(self) -> bool:
        return "python" in self.flags


_CAPTURES = {
    "bind": ("--capture", "bind"),
    "redirect-nft": ("--capture", "redirect", "--redirect-mechanism", "nft"),
    "redirect-iptables": ("--capture", "redirect", "--redirect-mechanism", "iptables"),
    "tproxy": ("--capture", "tproxy"),
}
_RELAYS = {
    "python": ("--relay", "python"),
    "native-1": ("--relay", "native", "--threads", "1"),
    "native-2": ("--relay", "native", "--threads", "2"),
}


def way(capture: str, relay: str) -> Way:
    """One of each."""
    return Way(f"{capture}-{relay}", _CAPTURES[capture] + _RELAYS[relay])


def ways(*captures: str) -> list[Way]:
    """These captures, each with both relays."""
    return [way(capture, relay) for capture in captures for relay in ("python", "native-2")]


WAYS = ways(*_CAPTURES)


def web(pods: Sequence[Greeter], name: str = "web", **spec: Any) -> list[Manifest]:
    """The dual-stack Service `web`, of type ClusterIP unless `spec` says otherwise, and its slices."""
    ips = spec.pop("clusterIPs", CLUSTER_IPS)
    return [
        service(name, spec.pop("ports", _SERVICE_PORTS), clusterIPs=list(ips), **spec),
        endpoint_slice(name, [pod.host.ip4 for pod in pods], _SLICE_PORTS, "IPv4"),
        endpoint_slice(name, [pod.host.ip6 for pod in pods], _SLICE_PORTS, "IPv6"),
    ]


def node_ports(tcp: int, udp: int) -> list[Manifest]:
    """The ports of `web`, with NodePorts."""
    return [dict(port, nodePort=number) for port, number in zip(_SERVICE_PORTS, (tcp, udp), strict=True)]


class Stage:
    """Where one test plays."""

    def __init__(self, lab: Lab, way: Way, folder: Path, greeter: type[Greeter] = Greeter) -> None:
        self.lab = lab
        self.client = lab.client
        self.node = lab.node
        self.way = way
        self.folder = folder
        self.pods = tuple(greeter(f"pod{number}", host) for number, host in enumerate(lab.pods, 1))
        self._runs = 0

    @property
    def callers(self) -> tuple[Host, Host]:
        """Where clients are: another machine, and the node itself."""
        return self.client, self.node

    @property
    def manifest(self) -> Path:
        """The file that the proxy reads."""
        return self.folder / "manifests.yaml"

    def write(self, objects: Iterable[Manifest] | str) -> None:
        """Put objects, or any text, in the place of what the manifest says now."""
        replace_file(self.manifest, objects if isinstance(objects, str) else text_of(objects))

    def proxy(self, objects: Iterable[Manifest], *flags: str, **process: Any) -> ProxyProcess:
        """A proxy for these objects, on the node."""
        self.write(objects)
        self._runs += 1
        log = self.folder / f"uproxy-{self._runs}.log"
        arguments = ("-f", str(self.manifest), *self.way.flags, *flags)
        return ProxyProcess(self.node, *arguments, log=log, **process)

    def cleanup(self) -> str:
        """Run `uproxy cleanup` on the node; what it prints. CommandFailed when it does not exit 0."""
        return self.node.run(*UPROXY, "cleanup").stdout

    def kernel_state(self) -> str:
        """All rules, sets and local routes of the node, without counters and times."""
        return kernel_state(self.node)


def addresses(address: Address) -> str:
    """An address as `/services` has it."""
    ip, port = address
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
