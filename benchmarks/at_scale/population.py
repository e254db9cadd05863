"""The objects of a big cluster, in the shape and size that an API server has them.

Labels, owners, references to Pods, zones and nodes are there; managedFields are not, which no
proxy reads and which would only make the transport slower.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address
from typing import Any

Object = dict[str, Any]

PORT = 80
BACKEND_PORT = 8080
NODE = "node-0000"
NAMESPACES = 100
_NODES = 500
_ZONES = ("eu-1a", "eu-1b", "eu-1c")
_FIRST_VIP = IPv4Address("10.96.1.0")
_FIRST_ENDPOINT = IPv4Address("10.128.0.0")
_CREATED = "2026-09-30T08:15:00Z"
_TRIGGERED = "2026-11-20T17:03:12Z"


@dataclass(frozen=True)
class Population:
    """So many Services, each with one slice of so many ready endpoints.

    Service 0 is the one that is really used: its endpoints are `pods`.
    """

    services: int
    endpoints: int
    pods: tuple[str, ...] = ()

    def vip(self, number: int) -> str:
        """The clusterIP of one Service."""
        return str(_FIRST_VIP + number)

    def addresses(self, number: int) -> list[str]:
        """The endpoints of one Service."""
        if number == 0 and self.pods:
            return list(self.pods)
        first = number * self.endpoints
        return [str(_FIRST_ENDPOINT + first + turn) for turn in range(self.endpoints)]

    @cached_property
    def objects(self) -> list[Object]:
        """All of them."""
        everything = [node()]
        for number in range(self.services):
            everything += [service(number, self.vip(number)), endpoint_slice(number, self.addresses(number))]
        return everything


def service(number: int, vip: str) -> Object:
    """A Service of one TCP port."""
    name = f"service-{number:05}"
    return {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": _metadata(name, number) | {"labels": _labels(name)},
        "spec": {
            "ports": [{"name": "http", "protocol": "TCP", "port": PORT, "targetPort": "http"}],
            "selector": {"app.kubernetes.io/name": name},
            "clusterIP": vip,
            "clusterIPs": [vip],
            "type": "ClusterIP",
            "sessionAffinity": "None",
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
        },
        "status": {"loadBalancer": {}},
    }


def endpoint_slice(number: int, addresses: Sequence[str]) -> Object:
    """The one slice of a Service, as the EndpointSlice controller writes it."""
    name = f"service-{number:05}"
    metadata = _metadata(f"{name}-{number * 7919 % 99991:05x}", number)
    labels = {
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
        "kubernetes.io/service-name": name,
    }
    metadata |= {
        "generateName": f"{name}-",
        "generation": 3,
        "labels": _labels(name) | labels,
        "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": _TRIGGERED},
        "ownerReferences": [
            {
                "apiVersion": "v1",
                "kind": "Service",
                "name": name,
                "uid": _uid(number),
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
    return {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": metadata,
        "addressType": "IPv4",
        "endpoints": [_endpoint(name, metadata["namespace"], address) for address in addresses],
        "ports": [{"name": "http", "protocol": "TCP", "port": BACKEND_PORT}],
    }


def node() -> Object:
    """The node that the proxy runs on."""
    return {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {
            "name": NODE,
            "uid": _uid(0),
            "labels": {"topology.kubernetes.io/zone": _ZONES[0], "kubernetes.io/os": "linux"},
        },
        "spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.200.0.1"}]},
    }


def _metadata(name: str, number: int) -> Object:
    return {
        "name": name,
        "namespace": f"team-{number % NAMESPACES:03}",
        "uid": _uid(number),
        "creationTimestamp": _CREATED,
    }


def _labels(name: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": name,
        "app.kubernetes.io/managed-by": "Helm",
        "helm.sh/chart": "backend-1.18.3",
    }


def _endpoint(name: str, namespace: str, address: str) -> Object:
    number = int(IPv4Address(address))
    on_node = number * 2654435761 % 2**32 % _NODES
    return {
        "addresses": [address],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "targetRef": {
            "kind": "Pod",
            "namespace": namespace,
            "name": f"{name}-{number % 99991:010x}-{number % 1021:05x}",
            "uid": _uid(number),
        },
        "nodeName": f"node-{on_node:04}",
        "zone": _ZONES[on_node % len(_ZONES)],
    }


def _uid(number: int) -> str:
    text = f"{number * 2654435761 % 2**64:016x}"
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-8{number % 4096:03x}-{number % 2**48:012x}"
