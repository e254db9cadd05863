"""Where Services are carried by IPVS, with real packets: a client, a node and three Pods.

The test itself is on the node. What takes the place of the relay is one more server, which says that it is:
who gets to it has been captured, as ever.
"""

import re
import socket
import subprocess
from collections import Counter
from ipaddress import ip_address

from tests.netns.e2e.callers import ask, ask_often
from tests.netns.e2e.servers import TCP_PORT, UDP_PORT, Greeter, Witness
from tests.proxy_process import eventually
from uproxy.handoff.ipvs import IpvsHandoff
from uproxy.handoff.plan import KernelPort, KernelVip
from uproxy.kit.lab import Host, Lab
from uproxy.model.frontend import Backend
from uproxy.model.names import Protocol, ServicePortName, Vip

VIPS = "10.96.0.1", "fd00:10:96::1"
ANY = "0.0.0.0", "::"
EXTERNAL = "203.0.113.7"
PORTS = {Protocol.TCP: (80, TCP_PORT), Protocol.UDP: (53, UDP_PORT)}
NODE_PORT = 30080
IPV6_FREEBIND = 78
TCP, UDP = Protocol.TCP, Protocol.UDP
_STATE = (
    "ipvsadm -S -n",
    "iptables-save",
    "ip6tables-save",
    "ipset save",
    "ip -4 route show table local",
    "ip -6 route show table local",
    "ip address",
    "sysctl net.ipv4.vs.conntrack net.ipv4.vs.expire_nodest_conn net.ipv4.vs.expire_quiescent_template",
    "sysctl net.ipv4.vs.conn_reuse_mode net.ipv4.ip_forward net.ipv6.conf.all.forwarding",
)
_TIMES_AND_COUNTERS = re.compile(r"^#.*\n|\[\d+:\d+\]", re.MULTILINE)


class Relay(Greeter):
    """On the node, for TCP that is redirected to it; for UDP bound to the VIP itself, as the proxy is."""

    def _bound(self, kind, port):
        made = []
        for family, any_ip, vip in zip((socket.AF_INET, socket.AF_INET6), ANY, VIPS, strict=True):
            sock = self.host.socket(family, kind)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
            sock.bind((vip, 53) if port == UDP_PORT else (any_ip, port))
            made.append(sock)
        return made


class Stage:
    """Who plays."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.client, self.node = lab, lab.client, lab.node
        self.pods = [Witness(f"pod{number}", host) for number, host in enumerate(lab.pods, 1)]
        self.relay = Relay("relay", lab.node)

    def port(
        self, vip: str, pods: list[Greeter] | None = None, protocol: Protocol = TCP, **more
    ) -> KernelPort:
        """A Service port with one address."""
        ip, (port, target) = ip_address(vip), PORTS[protocol]
        port = NODE_PORT if ip.is_unspecified else port
        hosts = [pod.host for pod in (self.pods if pods is None else pods)]
        backends = tuple(
            Backend(ip_address(host.ip4 if ip.version == 4 else host.ip6), target) for host in hosts
        )
        name = ServicePortName("default", f"web{ip.version}", "", protocol)
        return KernelPort(name, (KernelVip(Vip(ip, port, protocol), backends, backends),), **more)

    def backend(self, pod: Greeter) -> Backend:
        return Backend(ip_address(pod.host.ip4), TCP_PORT)


def state() -> str:
    """All that may be programmed, as the kernel's own tools print it."""
    return _TIMES_AND_COUNTERS.sub("", "".join(run(command) for command in _STATE))


def run(command: str) -> str:
    done = subprocess.run(command.split(), capture_output=True, text=True, check=True)  # noqa: TID251
    return done.stdout


async def who(host: Host, vip: str, port: int = 80) -> str:
    """The name alone."""
    return (await ask(host, (vip, port))).split()[0]


async def spread(host: Host, vip: str, count: int, port: int = 80) -> Counter[str]:
    answers = await ask_often(host, (vip, port), count)
    return sum((Counter({name.split()[0]: times}) for name, times in answers.items()), Counter())


async def are_counted(handoff: IpvsHandoff, *connections: int) -> None:
    """Wait until the endpoints have had so many, the least first: the kernel adds up every two seconds."""

    async def has_so_many() -> bool:
        return sorted(its.connections for its in (await handoff.look()).counts.values()) == list(connections)

    await eventually(has_so_many, f"{connections} connections")


def even(stage: Stage, each: int) -> dict[str, int]:
    return {pod.name: each for pod in stage.pods}
