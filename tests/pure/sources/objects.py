"""Kubernetes objects as plain data, with as little as each needs to be valid."""

from typing import Any

PORT = {"name": "http", "port": 80}


def service(spec: dict[str, Any] | None = None, labels: Any = None, status: Any = None, **metadata: Any):
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", **({"labels": labels} if labels is not None else {}), **metadata},
        "spec": {"ports": [PORT], **(spec or {})},
        **({"status": status} if status is not None else {}),
    }


def slice_(endpoints: Any = (), ports: Any = (PORT,), address_type: Any = "IPv4", **labels: Any):
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "labels": labels or {"kubernetes.io/service-name": "web"}},
        "addressType": address_type,
        "ports": list(ports),
        "endpoints": list(endpoints),
    }


def endpoints(*subsets: Any):
    return {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "web"}, "subsets": list(subsets)}


def pod(status: Any = None, spec: Any = None, **metadata: Any):
    ready = {"podIP": "10.244.0.1", "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web-abc", "labels": {"app": "web"}, **metadata},
        "spec": spec or {},
        "status": ready | (status or {}),
    }
