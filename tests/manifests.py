"""Kubernetes objects for tests, as the API would give them, and files full of them."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Manifest = dict[str, Any]


def service(name: str, ports: Sequence[Manifest], **spec: Any) -> Manifest:
    """A Service (v1) in namespace `default`; `spec` is whatever else its spec has."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"ports": list(ports), **spec},
    }


def endpoint_slice(
    service_name: str, addresses: Iterable[str], ports: Sequence[Manifest], kind: str
) -> Manifest:
    """An EndpointSlice of ready endpoints; `kind` is its addressType."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{service_name}-{kind.lower()}",
            "labels": {"kubernetes.io/service-name": service_name},
        },
        "addressType": kind,
        "ports": list(ports),
        "endpoints": [{"addresses": [address]} for address in addresses],
    }


def text_of(objects: Iterable[Manifest]) -> str:
    """One file with all of them, a document each (JSON is YAML)."""
    return "\n---\n".join(json.dumps(one, indent=2) for one in objects) + "\n"


def replace_file(path: Path, text: str) -> None:
    """Put `text` in the place of a file at once, as editors do."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text)
    beside.rename(path)
