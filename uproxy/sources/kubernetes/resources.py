"""The three resources that a Service proxy follows: where they are, which of them, and what they become.

Selectors are kube-proxy's (cmd/kube-proxy/app/server.go), so that what is not ours is not even sent.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from uproxy.model.events import KubernetesObject
from uproxy.sources.kubernetes import convert, wire
from uproxy.sources.kubernetes.convert import PROXY_NAME_LABEL

_HEADLESS_LABEL = "service.kubernetes.io/headless"


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of objects at one path."""

    name: str
    """As RBAC calls it."""
    path: str
    selectors: Mapping[str, str]
    """`labelSelector` and `fieldSelector`, when there are any."""
    item: type[Any]
    event: type[wire.WatchEvent[Any]]
    """The same in a watch."""
    convert: Callable[[Any], KubernetesObject | None]
    """From `item` to the model; None for what is to be left out. Raises ValueError."""


def services(proxy_name: str | None, headless: bool) -> Resource:
    """Services of this proxy; the headless ones only when they are wanted."""
    return Resource(
        "services",
        "/api/v1/services",
        _selectors(_proxy_name(proxy_name), "" if headless else "spec.clusterIP!=None"),
        wire.Service,
        wire.WatchEvent[wire.Service],
        partial(convert.service, proxy_name=proxy_name),
    )


def endpoint_slices(proxy_name: str | None, headless: bool) -> Resource:
    """Their EndpointSlices. Controllers copy a Service's labels to its slices; one that somebody has
    written need not have them, so that a name of our own leaves nothing out."""
    of_others = (f"!{PROXY_NAME_LABEL}",) if proxy_name is None else ()
    labels = ",".join((*of_others, *(() if headless else (f"!{_HEADLESS_LABEL}",))))
    return Resource(
        "endpointslices",
        "/apis/discovery.k8s.io/v1/endpointslices",
        _selectors(labels, ""),
        wire.EndpointSlice,
        wire.WatchEvent[wire.EndpointSlice],
        convert.endpoint_slice,
    )


def own_node(name: str) -> Resource:
    """The one node."""
    return Resource(
        "nodes",
        "/api/v1/nodes",
        _selectors("", f"metadata.name={name}"),
        wire.Node,
        wire.WatchEvent[wire.Node],
        convert.node,
    )


def _proxy_name(name: str | None) -> str:
    return f"!{PROXY_NAME_LABEL}" if name is None else f"{PROXY_NAME_LABEL}={name}"


def _selectors(labels: str, fields: str) -> Mapping[str, str]:
    given = {"labelSelector": labels, "fieldSelector": fields}
    return {name: selector for name, selector in given.items() if selector}
