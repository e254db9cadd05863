"""The Kubernetes objects that a measured uproxy reads, in the shape the API has them.

Owns as many Services as are asked for. What is edited stands in a file of its own, beside the
others: an API server would send that one object too.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from uproxy.bench.peers import Forward
from uproxy.bench.sites import Pod

KubernetesObject = Mapping[str, Any]

NODE_NAME = "bench-node"
"""Where all pods run: on the node that a path leads through."""
_NAMESPACE = "bench"
_TCP = ("TCP",)
_BOTH = ("TCP", "UDP")


def service(name: str, cluster_ip: str, port: int, protocols: Sequence[str] = _TCP) -> KubernetesObject:
    """Describe a Service with an explicit clusterIP and one port for each protocol."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": _NAMESPACE},
        "spec": {"clusterIP": cluster_ip, "ports": _ports(port, protocols)},
    }


def endpoint_slices(
    service_name: str, pods: Sequence[Pod], protocols: Sequence[str] = _TCP
) -> list[KubernetesObject]:
    """Describe the slices of a Service, one for each port number that its pods listen on."""
    by_port: dict[int, list[str]] = {}
    for pod in pods:
        by_port.setdefault(pod.port, []).append(pod.ip)
    return [
        endpoint_slice(f"{service_name}-{port}", service_name, ips, port, protocols)
        for port, ips in by_port.items()
    ]


def endpoint_slice(
    name: str, service_name: str, ips: Sequence[str], port: int, protocols: Sequence[str] = _TCP
) -> KubernetesObject:
    """Describe a slice whose endpoints are all ready."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": _NAMESPACE,
            "labels": {"kubernetes.io/service-name": service_name},
        },
        "addressType": "IPv4",
        "ports": _ports(port, protocols),
        "endpoints": [
            {"addresses": [ip], "conditions": {"ready": True}, "nodeName": NODE_NAME} for ip in ips
        ],
    }


def _ports(port: int, protocols: Sequence[str]) -> list[KubernetesObject]:
    return [{"name": protocol.lower(), "port": port, "protocol": protocol} for protocol in protocols]


def as_list(objects: Sequence[KubernetesObject]) -> KubernetesObject:
    """Wrap objects in a List, as `kubectl get -o json` prints them."""
    return {"apiVersion": "v1", "kind": "List", "items": list(objects)}


class Manifests:
    """A directory that uproxy watches."""

    def __init__(self, folder: Path, *, in_kernel: bool = False) -> None:
        """`in_kernel` asks for the Services themselves, not for the others, to be handed over."""
        self.folder = folder
        self._annotations = {"uproxy.dev/handoff": "always"} if in_kernel else {}

    def write_service(self, number: int, forward: Forward) -> None:
        """Put a Service and its endpoints in place, by an atomic rename."""
        name = f"service{number}"
        objects = [
            service(name, forward.ip, forward.port, _BOTH),
            *endpoint_slices(name, forward.pods, _BOTH),
        ]
        objects[0]["metadata"]["annotations"] = self._annotations
        self._write(f"{name}.json", objects)

    def write_others(self, forwards: Sequence[Forward]) -> None:
        """Put all Services that are only there to be many into one file."""
        objects: list[KubernetesObject] = []
        for number, forward in enumerate(forwards):
            name = f"other{number}"
            objects += [service(name, forward.ip, forward.port), *endpoint_slices(name, forward.pods)]
        self._write("others.json", objects)

    def _write(self, name: str, objects: Sequence[KubernetesObject]) -> None:
        unseen = self.folder / f".{name}.new"
        unseen.write_text(json.dumps(as_list(objects)))
        unseen.rename(self.folder / name)
