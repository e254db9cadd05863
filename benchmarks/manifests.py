"""Kubernetes objects for the benchmarks, as dictionaries in the shape the API has them."""

from collections.abc import Mapping, Sequence
from typing import Any

KubernetesObject = Mapping[str, Any]


def service(name: str, cluster_ip: str, ports: Mapping[str, int]) -> KubernetesObject:
    """Describe a Service with an explicit clusterIP; `ports` has numbers by name."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "bench"},
        "spec": {
            "clusterIP": cluster_ip,
            "ports": [
                {"name": port_name, "port": port, "protocol": "TCP"} for port_name, port in ports.items()
            ],
        },
    }


def endpoint_slice(service_name: str, addresses: Sequence[str], ports: Mapping[str, int]) -> KubernetesObject:
    """Describe the one slice of a Service; `ports` are those that the endpoints listen on."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{service_name}-1",
            "namespace": "bench",
            "labels": {"kubernetes.io/service-name": service_name},
        },
        "addressType": "IPv4",
        "ports": [{"name": port_name, "port": port, "protocol": "TCP"} for port_name, port in ports.items()],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
    }


def as_list(objects: Sequence[KubernetesObject]) -> KubernetesObject:
    """Wrap objects in a List, as `kubectl get -o json` prints them."""
    return {"apiVersion": "v1", "kind": "List", "items": list(objects)}
