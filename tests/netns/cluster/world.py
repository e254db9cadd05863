"""A cluster with an API server, a proxy on each node, and pods that say whom they see."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.api_server import RunningApiServer, running_api_server
from tests.manifests import Manifest, endpoint_slice, service
from tests.netns.cluster.nodes import TwoNodes
from tests.netns.e2e.servers import TCP_PORT, UDP_PORT, Witness
from tests.netns.e2e.stage import Way
from tests.netns.kernel_state import kernel_state
from tests.proxy_process import Address, ProxyProcess
from uproxy.kit.lab import Host, Lab

PORTS = (("web", 80, "TCP", TCP_PORT), ("dns", 53, "UDP", UDP_PORT))


@dataclass(frozen=True)
class Node:
    """A node with its pods."""

    name: str
    zone: str
    host: Host
    pods: tuple[Witness, ...]
    pod_cidrs: tuple[str, str]

    def manifest(self, **spec: Any) -> Manifest:
        """The Node (v1); `spec` is what else its spec has."""
        addresses = [{"type": "InternalIP", "address": ip} for ip in (self.host.ip4, self.host.ip6)]
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "labels": {"topology.kubernetes.io/zone": self.zone}},
            "spec": {"podCIDRs": list(self.pod_cidrs)} | spec,
            "status": {"addresses": addresses},
        }


@dataclass(frozen=True)
class Web:
    """A dual-stack Service, told from others by its number."""

    name: str
    number: int

    @property
    def ips(self) -> tuple[str, str]:
        return f"172.30.0.{self.number}", f"fd00:172:30::{self.number:x}"

    @property
    def node_port(self) -> int:
        """Its TCP port's; that of UDP is one higher."""
        return 30000 + 2 * self.number

    def addresses(self, protocol: str = "TCP") -> list[Address]:
        """Its VIPs."""
        return [(ip, 80 if protocol == "TCP" else 53) for ip in self.ips]

    def at(self, node: Node, protocol: str = "TCP") -> list[Address]:
        """Its NodePort at a node."""
        port = self.node_port + (protocol == "UDP")
        return [(node.host.ip4, port), (node.host.ip6, port)]

    def service(self, **spec: Any) -> Manifest:
        """The Service."""
        ports = [
            {"name": name, "port": port, "protocol": protocol, "targetPort": target}
            for name, port, protocol, target in PORTS
        ]
        if spec.get("type") in ("NodePort", "LoadBalancer"):
            ports = [port | {"nodePort": self.node_port + index} for index, port in enumerate(ports)]
        return _in_default(service(self.name, ports, clusterIPs=list(self.ips), **spec))

    def slices(self, *endpoints: "Endpoint") -> list[Manifest]:
        """Its EndpointSlices."""
        ports = [{"name": name, "port": target, "protocol": protocol} for name, _, protocol, target in PORTS]
        made = []
        for kind in ("IPv4", "IPv6"):
            one = endpoint_slice(self.name, [], ports, kind)
            one["endpoints"] = [endpoint.manifest(kind) for endpoint in endpoints]
            made.append(_in_default(one))
        return made


@dataclass(frozen=True)
class Endpoint:
    """A pod in a slice."""

    pod: Witness
    node: str
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    zones: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()

    def manifest(self, kind: str) -> Manifest:
        """As an EndpointSlice of this addressType has it."""
        hints = {
            key: [{"name": name} for name in names]
            for key, names in (("forZones", self.zones), ("forNodes", self.nodes))
            if names
        }
        conditions = {"ready": self.ready, "serving": self.serving, "terminating": self.terminating}
        made = {
            "addresses": [self.pod.host.ip4 if kind == "IPv4" else self.pod.host.ip6],
            "nodeName": self.node,
            "conditions": conditions,
        }
        return made | ({"hints": hints} if hints else {})


class World:
    """All of it. The API server runs at the client."""

    def __init__(self, lab: Lab, way: Way, folder: Path, api: RunningApiServer) -> None:
        self.lab = lab
        self.client = lab.client
        self.way = way
        self.folder = folder
        self.api = api
        self.nodes = _nodes(lab)
        self.pods = tuple(pod for node in self.nodes for pod in node.pods)
        self._runs = 0
        api.put(*(node.manifest() for node in self.nodes))

    @property
    def kubeconfig(self) -> Path:
        """Where it is; `token` beside it has the token."""
        return self.folder / "kubeconfig"

    def proxy(self, node: Node, *flags: str, **process: Any) -> ProxyProcess:
        """A proxy on a node."""
        self._runs += 1
        self.api.server.token_kubeconfig(self.kubeconfig, self.folder / "token", self.client.ip4)
        arguments = ("--kubeconfig", str(self.kubeconfig), "--hostname-override", node.name, *self.way.flags)
        log = self.folder / f"uproxy-{self._runs}-{node.name}.log"
        return ProxyProcess(node.host, *arguments, *flags, log=log, **process)

    def endpoint(self, pod: Witness, **more: Any) -> Endpoint:
        """A pod, on its node."""
        (node,) = (node for node in self.nodes if pod in node.pods)
        return Endpoint(pod, node.name, **more)

    def put(self, web: Web, pods: Sequence[Witness], **spec: Any) -> None:
        """A Service of type ClusterIP, unless `spec` says otherwise, with these ready pods."""
        self.api.put(web.service(**spec), *web.slices(*map(self.endpoint, pods)))

    def return_api_server(self) -> None:
        """Start the API server again after it was stopped."""
        self.api.start(_listening(self.client, self.api.server.port))

    def kernel_state(self, node: Node) -> str:
        """All rules, sets and local routes of a node."""
        return kernel_state(node.host)

    async def listen(self) -> None:
        """Have every pod answer."""
        for pod in self.pods:
            await pod.listen_tcp()
            pod.listen_udp()

    def kill(self) -> None:
        """Have none of them."""
        for pod in self.pods:
            pod.kill()


@contextmanager
def world(lab: Lab, way: Way, folder: Path, certificates: Path) -> Iterator[World]:
    """A world with nodes, and no Service yet."""
    with running_api_server(certificates, _listening(lab.client, 0)) as api:
        made = World(lab, way, folder, api)
        yield made
        made.kill()


def _nodes(lab: Lab) -> tuple[Node, ...]:
    pods = tuple(Witness(f"pod{number}", host) for number, host in enumerate(lab.pods, 1))
    first = Node("node-1", "zone-a", lab.node, pods, ("10.244.0.0/24", "fd00:10:244::/64"))
    if not isinstance(lab, TwoNodes):
        return (first,)
    others = tuple(Witness(f"pod{number}", host) for number, host in enumerate(lab.other_pods, 3))
    cidrs = ("10.244.1.0/24", "fd00:10:244:1::/64")
    return first, Node("node-2", "zone-b", lab.other_node, others, cidrs)


def _listening(host: Host, port: int) -> socket.socket:
    made = host.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((host.ip4, port))
    made.setblocking(False)
    return made


def _in_default(thing: Manifest) -> Manifest:
    return thing | {"metadata": thing["metadata"] | {"namespace": "default"}}
