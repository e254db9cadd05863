"""Kubernetes objects as an API server has them: checked, defaulted and allocated."""

from typing import Any

SERVICE_LABEL = "kubernetes.io/service-name"


def service(name: str = "web", ip: str = "10.96.0.10", *, namespace: str = "default", **spec: Any) -> dict:
    ports = [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}]
    defaults = {
        "type": "ClusterIP",
        "clusterIP": ip,
        "clusterIPs": [ip],
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "internalTrafficPolicy": "Cluster",
        "sessionAffinity": "None",
        "ports": ports,
        "selector": {"app": name},
    }
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": defaults | spec,
        "status": {"loadBalancer": {}},
    }


def endpoint_slice(
    name: str = "web-abc12", *ips: str, service: str = "web", namespace: str = "default", **more: Any
) -> dict:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": namespace, "labels": {SERVICE_LABEL: service}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": [endpoint(ip) for ip in ips],
        **more,
    }


def endpoint(ip: str, *, node: str = "node-1", **conditions: bool) -> dict:
    return {
        "addresses": [ip],
        "conditions": {"ready": True, "serving": True, "terminating": False} | conditions,
        "nodeName": node,
        "targetRef": {"kind": "Pod", "namespace": "default", "name": f"pod-{ip}"},
    }


def node(name: str = "node-1", *, zone: str = "zone-a", address: str = "192.168.0.2", **spec: Any) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}},
        "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]} | spec,
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }


def labelled(thing: dict, **labels: str) -> dict:
    """The object with labels; `__` in a name stands for `/`, and `_` for `-`."""
    metadata = thing["metadata"]
    added = {key.replace("__", "/").replace("_", "-"): text for key, text in labels.items()}
    return thing | {"metadata": metadata | {"labels": metadata.get("labels", {}) | added}}
