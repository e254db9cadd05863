"""A Kubernetes object, as parsed, into the model.

Owns which kinds are used and what identifies an object. The rules for each kind are in
`convert_service`, `convert_endpoints`, `convert_pod` and `convert_node`; beside this one they are the only
files that know the API's field names.

What an API server would refuse is refused here in plain words. Two rules are laxer on
purpose: loopback addresses are allowed, because endpoints on a laptop have them; and a
Service's name may begin with a digit (KEP-5311).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from uproxy.model.events import KubernetesObject
from uproxy.model.faults import Fault
from uproxy.model.names import NamespacedName
from uproxy.sources.convert_endpoints import endpoint_slice, endpoints
from uproxy.sources.convert_node import node
from uproxy.sources.convert_pod import pod
from uproxy.sources.convert_service import service
from uproxy.sources.cursor import Cursor, FieldFault, shown

_Rules = Callable[[Cursor, NamespacedName], tuple[KubernetesObject, ...] | None]

_RULES: dict[tuple[str, str], _Rules] = {
    ("v1", "Service"): service,
    ("discovery.k8s.io/v1", "EndpointSlice"): endpoint_slice,
    ("v1", "Endpoints"): endpoints,
    ("v1", "Pod"): pod,
    ("v1", "Node"): node,
}


@dataclass(frozen=True, slots=True)
class Converted:
    """What became of one object of a document.

    Its faults do not say in which file they are, so that the result can be remembered by
    the document's text; `placed` adds that.
    """

    kind: str
    key: NamespacedName | None
    """None when the object cannot be told from others."""
    objects: tuple[KubernetesObject, ...] = ()
    faults: tuple[Fault, ...] = ()
    skipped: bool = False
    """Of no use to a Service proxy."""

    def placed(self, file: str, document: int, item: int | None = None) -> "Converted":
        """The same with its faults' place filled in; `item` is its index in a List."""
        if not self.faults:
            return self
        prefix = "" if item is None or self.key else f"items[{item}]."
        return replace(
            self,
            faults=tuple(
                replace(fault, file=file, document=document, field=(prefix + fault.field).rstrip("."))
                for fault in self.faults
            ),
        )


def convert(document: object) -> Converted:
    """Convert one object. Never raises, whatever `document` is made of."""
    found: list[FieldFault] = []
    root = Cursor(document, found)
    if not isinstance(document, dict):
        root.fault(f"must be a mapping with apiVersion, kind and metadata, not {shown(document)}")
        return _faulty("", None, found)
    version, kind = root.at("apiVersion").required().text(), root.at("kind").required().text()
    if found:
        return _faulty(kind, None, found)
    rules = _RULES.get((version, kind))
    if rules is None:
        return Converted(kind, None, skipped=True)
    key = _key(root, kind)
    if key is None:
        return _faulty(kind, None, found)
    objects = rules(root, key)
    if found:
        return _faulty(kind, key, found)
    return Converted(kind, key, objects or (), skipped=objects is None)


def _key(root: Cursor, kind: str) -> NamespacedName | None:
    name, namespace = root.at("metadata", "name").required(), root.at("metadata", "namespace")
    home = namespace.label() or "default"
    key = NamespacedName(
        "" if kind == "Node" else home, name.label() if kind == "Service" else name.subdomain()
    )
    return key if key.name else None


def _faulty(kind: str, key: NamespacedName | None, found: list[FieldFault]) -> Converted:
    faults = (Fault("", 0, kind, key, path, message) for path, message in dict.fromkeys(found))
    return Converted(kind, key, faults=tuple(faults))
