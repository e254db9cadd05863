"""Who selects whom: Services and Pods found by label, without comparing each with each.

Pure. Both sides are filed under one label each: a selector under its first label, a Pod
under all of its labels.
"""

from collections import defaultdict
from collections.abc import Iterable

from uproxy.model.endpoint import Pod
from uproxy.model.names import NamespacedName
from uproxy.model.service import Service

_Label = tuple[str, str, str]
"""Namespace, key, value."""


class LabelIndex:
    """The Pods that a Service may select, and the Services that may select a Pod."""

    def __init__(self) -> None:
        self._pods: defaultdict[_Label, dict[NamespacedName, Pod]] = defaultdict(dict)
        self._services: defaultdict[_Label, set[NamespacedName]] = defaultdict(set)

    def add_pod(self, pod: Pod) -> None:
        """File a Pod."""
        for label in _labels(pod.key.namespace, pod.labels.items()):
            self._pods[label][pod.key] = pod

    def remove_pod(self, pod: Pod) -> None:
        """Take a Pod out."""
        for label in _labels(pod.key.namespace, pod.labels.items()):
            self._pods[label].pop(pod.key, None)

    def add_service(self, service: Service) -> None:
        """File a Service; one without a selector selects nothing."""
        for label in _first(service):
            self._services[label].add(service.key)

    def remove_service(self, service: Service) -> None:
        """Take a Service out."""
        for label in _first(service):
            self._services[label].discard(service.key)

    def candidates(self, service: Service) -> Iterable[Pod]:
        """Pods that match the first label of the Service's selector."""
        for label in _first(service):
            return self._pods[label].values()
        return ()

    def selecting(self, pod: Pod) -> set[NamespacedName]:
        """Services whose selector's first label the Pod has."""
        found: set[NamespacedName] = set()
        for label in _labels(pod.key.namespace, pod.labels.items()):
            found |= self._services.get(label, set())
        return found


def _labels(namespace: str, items: Iterable[tuple[str, str]]) -> list[_Label]:
    return [(namespace, key, value) for key, value in items]


def _first(service: Service) -> list[_Label]:
    return _labels(service.key.namespace, sorted(service.selector.items())[:1])
