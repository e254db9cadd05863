"""The objects that names are made from, and which Services a change touches.

Pure. Owns folding events and programmed Service ports in. What the proxy allocates, addresses
and stand-in ports, comes with the Service ports; everything else with the objects.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from uproxy.dns.pods import PodAddresses
from uproxy.model.endpoint import EndpointSlice, Origin, Pod
from uproxy.model.events import Delete, Event, KubernetesObject, Upsert
from uproxy.model.frontend import Changes, DesiredServicePort
from uproxy.model.names import NamespacedName, ServicePortName
from uproxy.model.service import Service
from uproxy.state.labels import LabelIndex
from uproxy.state.selection import authoritative, slices_from_pods

_SliceKey = tuple[Origin, NamespacedName]


class Parts(NamedTuple):
    """Everything that one Service's names are made from."""

    service: Service
    ports: tuple[DesiredServicePort, ...]
    """As the proxy serves them; empty for a Service that it leaves alone."""
    slices: list[EndpointSlice]
    """Of a headless Service; others need none."""


class Objects:
    """Events in; `touched` collects the Services whose names may have changed."""

    def __init__(self) -> None:
        self.touched: set[NamespacedName] = set()
        self.namespaces: Counter[str] = Counter()
        """How many objects each namespace has; one without any is unknown."""
        self.pods = PodAddresses()
        self._services: dict[NamespacedName, Service] = {}
        self._ports: dict[NamespacedName, tuple[DesiredServicePort, ...]] = {}
        self._labels = LabelIndex()
        self._pods: dict[NamespacedName, Pod] = {}
        self._slices: defaultdict[NamespacedName, dict[_SliceKey, EndpointSlice]] = defaultdict(dict)
        self._homes: dict[_SliceKey, EndpointSlice] = {}

    def fold(self, events: Iterable[Event]) -> None:
        """Take objects as they are now."""
        for event in events:
            match event:
                case Upsert(thing):
                    self._replace(thing, present=True)
                case Delete(thing):
                    self._replace(thing, present=False)
                case _:
                    pass  # faults, nodes and looked-up hosts make no names

    def program(self, changes: Changes) -> None:
        """Take Service ports as they are served now."""
        for name in changes.removed:
            self._replace_port(name, None)
        for desired in changes.updated:
            self._replace_port(desired.name, desired)

    def _replace_port(self, name: ServicePortName, desired: DesiredServicePort | None) -> None:
        """Other endpoints behind the same addresses change no name."""
        ports = self._ports.get(name.service, ())
        before = next((port for port in ports if port.name == name), None)
        now = (*(port for port in ports if port is not before), *((desired,) if desired else ()))
        if now:
            self._ports[name.service] = now
        else:
            self._ports.pop(name.service, None)
        if before is None or desired is None or before.frontends != desired.frontends:
            self.touched.add(name.service)

    def parts(self, key: NamespacedName) -> Parts | None:
        """What the Service's names are made from; None when there is no such Service."""
        service = self._services.get(key)
        if service is None:
            return None
        return Parts(service, self._ports.get(key, ()), self._slices_of(service))

    def _replace(self, thing: KubernetesObject, *, present: bool) -> None:
        match thing:
            case Service():
                self._replace_service(thing, present=present)
            case EndpointSlice():
                self._replace_slice(thing, present=present)
            case Pod():
                self._replace_pod(thing, present=present)
            case _:
                pass  # nodes have no names here

    def _replace_service(self, service: Service, *, present: bool) -> None:
        before = self._services.pop(service.key, None)
        self._count(service.key.namespace, had=before is not None, has=present)
        if before is not None and before.headless:
            self._labels.remove_service(before)
        if present:
            self._services[service.key] = service
            if service.headless:
                self._labels.add_service(service)
        self.touched.add(service.key)

    def _replace_slice(self, piece: EndpointSlice, *, present: bool) -> None:
        key = (piece.origin, piece.key)
        before = self._homes.pop(key, None)
        self._count(piece.key.namespace, had=before is not None, has=present)
        self.pods.replace(piece.key.namespace, before, piece if present else None)
        if before is not None:
            self._forget_slice(before, key)
        if present:
            self._homes[key] = piece
            self._slices[piece.service][key] = piece
            self._touch_headless(piece.service)

    def _forget_slice(self, before: EndpointSlice, key: _SliceKey) -> None:
        siblings = self._slices[before.service]
        del siblings[key]
        if not siblings:
            del self._slices[before.service]
        self._touch_headless(before.service)

    def _replace_pod(self, pod: Pod, *, present: bool) -> None:
        before = self._pods.pop(pod.key, None)
        self._count(pod.key.namespace, had=before is not None, has=present)
        for version in (before, pod if present else None):
            if version is not None:
                self.touched |= self._labels.selecting(version)
        if before is not None:
            self._labels.remove_pod(before)
        if present:
            self._pods[pod.key] = pod
            self._labels.add_pod(pod)
        self.pods.replace(pod.key.namespace, before, pod if present else None)

    def _touch_headless(self, key: NamespacedName) -> None:
        """A slice of another Service changes none of its names."""
        service = self._services.get(key)
        if service is not None and service.headless:
            self.touched.add(key)

    def _count(self, namespace: str, *, had: bool, has: bool) -> None:
        self.namespaces[namespace] += has - had
        if not self.namespaces[namespace]:
            del self.namespaces[namespace]

    def _slices_of(self, service: Service) -> list[EndpointSlice]:
        if not service.headless:
            return []
        given = list(self._slices.get(service.key, {}).values())
        if all(piece.origin is Origin.FLAG for piece in given):
            given += slices_from_pods(service, self._labels.candidates(service))
        return authoritative(given)
