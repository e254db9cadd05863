"""Scenarios: one behaviour of Services each, from tests/scenarios/*.yaml.

A scenario is a Service with its endpoints, seen from node-1 (zone-a, with all three pods of the lab in its
podCIDRs), and what becomes of packets for its addresses. Each is run twice: by the packet tracer against
the pure decision (pure/state/test_scenarios.py), and with real packets (netns/e2e/test_scenarios.py).

    behaviour: a sentence
    source: where that is said
    service: fields of `spec`, beside cluster IPs and the ports web (TCP) and dns (UDP)
    ingress: false                 leave out the load balancer's address
    endpoints:
    - {pod: 1, node: node-1, ready: true, serving: true, terminating: false, zones: [], nodes: []}
    - {pod: 2, second: true}       by another target port, in a slice of its own; it answers as pod2-second
    - {pod: 3, port: web}          one of its ports only, in a slice of its own
    packets:
      outside -> cluster-ip: pod1 pod2      or REJECT, or DROP
    sticky: true                   one client's connections all go to one of them
    keeps-port: true               UDP clients ask from one port in all steps
    then:                          steps: what changes, and what becomes of packets afterwards
    - endpoints: []
      packets: ...

From `outside`, `node`, `pod1`... to `cluster-ip`, `external-ip`, `load-balancer`, `node-port`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.manifests import Manifest, endpoint_slice, service

FOLDER = Path(__file__).parent / "scenarios"
NODE = "node-1"
ZONE = "zone-a"
PODS_CIDRS = ("10.244.0.0/24", "fd00:10:244::/64")
NODE_IPS = ("10.200.0.1", "fd00:10:200::1")
OUTSIDE_IPS = ("10.200.0.2", "fd00:10:200::2")
POD_COUNT = 3
PORTS = {"web": 8080, "dns": 5353}
SECOND_PORTS = {"web": 8081, "dns": 5354}
"""Where pods answer too, as somebody else."""


@dataclass(frozen=True)
class Packet:
    """A new connection or datagram, and what is to become of it."""

    origin: str
    target: str
    outcome: frozenset[str]
    """Pods that answer, or one of REJECT and DROP."""


@dataclass(frozen=True)
class Step:
    """How things are for a while."""

    objects: tuple[Manifest, ...]
    packets: tuple[Packet, ...]
    sticky: bool


@dataclass(frozen=True)
class Scenario:
    """One file."""

    name: str
    number: int
    behaviour: str
    steps: tuple[Step, ...]
    keeps_port: bool

    def step(self, number: int) -> Step:
        """The step of this number, from 0 on; the last one stays."""
        return self.steps[min(number, len(self.steps) - 1)]

    def address(self, target: str, family: int, protocol: str) -> tuple[str, int]:
        """Where a packet goes, by the word for it."""
        if target == "node-port":
            return NODE_IPS[family == 6], self.node_port(protocol)
        return _vips(self.number, target)[family == 6], 80 if protocol == "TCP" else 53

    def node_port(self, protocol: str) -> int:
        """Of the Service's port for this protocol."""
        return 30000 + 2 * self.number + (protocol == "UDP")


def pod_ips(number: int) -> tuple[str, str]:
    """Of the lab's pod1, pod2..."""
    return f"10.244.0.{10 + number}", f"fd00:10:244::{10 + number}"


def node_object() -> Manifest:
    """The own node, the same for all scenarios."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": NODE, "labels": {"topology.kubernetes.io/zone": ZONE}},
        "spec": {"podCIDRs": list(PODS_CIDRS)},
        "status": {"addresses": [{"type": "InternalIP", "address": ip} for ip in NODE_IPS]},
    }


def load_all() -> list[Scenario]:
    """Every scenario, in the order of their names."""
    return [_load(path, number) for number, path in enumerate(sorted(FOLDER.glob("*.yaml")), 1)]


def _load(path: Path, number: int) -> Scenario:
    content = yaml.safe_load(path.read_text())
    states = [content]
    for change in content.get("then", ()):
        states.append({**states[-1], **change})
    targets = {words.split(" -> ")[1] for state in states for words in state["packets"]}
    steps = [
        Step(
            tuple(_objects(path.stem, number, state, targets)),
            tuple(_packet(words, outcome) for words, outcome in state["packets"].items()),
            state.get("sticky", False),
        )
        for state in states
    ]
    return Scenario(path.stem, number, content["behaviour"], tuple(steps), content.get("keeps-port", False))


def _packet(words: str, outcome: str) -> Packet:
    origin, target = words.split(" -> ")
    return Packet(origin, target, frozenset(outcome.split()))


_PREFIXES = {"cluster-ip": ("172.30", "fd00:172:30"), "external-ip": ("203.0", "2001:db8:1"),
             "load-balancer": ("198.51", "2001:db8:2")}  # fmt: skip


def _vips(number: int, target: str) -> tuple[str, str]:
    four, six = _PREFIXES[target]
    return f"{four}.113.{number}", f"{six}::{number:x}"


def _objects(name: str, number: int, content: dict[str, Any], targets: set[str]) -> list[Manifest]:
    spec = {"clusterIPs": list(_vips(number, "cluster-ip"))} | content.get("service", {})
    if "external-ip" in targets:
        spec["externalIPs"] = list(_vips(number, "external-ip"))
    with_node_port = spec.get("type") in ("NodePort", "LoadBalancer")
    ports = [
        {"name": port, "port": at, "protocol": protocol}
        | ({"nodePort": 30000 + 2 * number + (protocol == "UDP")} if with_node_port else {})
        for port, at, protocol in (("web", 80, "TCP"), ("dns", 53, "UDP"))
    ]
    made = service(name, ports, **spec)
    if spec.get("type") == "LoadBalancer":
        ingress = [
            {"ip": ip, "ipMode": content.get("ipMode", "VIP")} for ip in _vips(number, "load-balancer")
        ]
        made["status"] = {"loadBalancer": {"ingress": ingress}}
    kinds = ("IPv4", "IPv6")
    return [made, *(_slice(name, endpoints, kind) for endpoints in _slices(content) for kind in kinds)]


def _slices(content: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The endpoints of each slice: those that have the same ports. The first is there without any too."""
    apart: dict[Any, list[dict[str, Any]]] = {(False, None): []}
    for one in content.get("endpoints", []):
        apart.setdefault((one.get("second", False), one.get("port")), []).append(one)
    return list(apart.values())


def _slice(name: str, endpoints: list[dict[str, Any]], kind: str) -> Manifest:
    first = endpoints[0] if endpoints else {}
    numbers = SECOND_PORTS if first.get("second") else PORTS
    ports = [
        {"name": port, "port": numbers[port], "protocol": protocol}
        for port, protocol in (("web", "TCP"), ("dns", "UDP"))
        if first.get("port", port) == port
    ]
    made = endpoint_slice(name, [], ports, kind)
    made["metadata"]["name"] += "-second" if first.get("second") else ""
    made["metadata"]["name"] += f"-{first['port']}" if "port" in first else ""
    made["endpoints"] = [_endpoint(one, kind == "IPv6") for one in endpoints]
    return made


def _endpoint(given: dict[str, Any], index: int) -> Manifest:
    ready = given.get("ready", True)
    made = {
        "addresses": [pod_ips(given["pod"])[index]],
        "nodeName": given.get("node", NODE),
        "conditions": {
            "ready": ready,
            "serving": given.get("serving", ready),
            "terminating": given.get("terminating", False),
        },
    }
    hints = {
        f"for{kind}": [{"name": name} for name in given[key]]
        for kind, key in (("Zones", "zones"), ("Nodes", "nodes"))
        if key in given
    }
    return made | ({"hints": hints} if hints else {})
