"""The objects of a stand-in cluster, and a bounded history of their changes: what etcd and the watch cache
are to a real API server. Pure."""

import copy
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

Object = dict[str, Any]
Key = tuple[str, str, str]
"""Resource, namespace, name."""

RESOURCES = {"Service": "services", "EndpointSlice": "endpointslices", "Node": "nodes"}


class Change(NamedTuple):
    """One write."""

    version: int
    resource: str
    before: Object | None
    after: Object | None


class Storage:
    """Every write has a resource version of its own, higher than all before."""

    def __init__(self, version: int = 1000) -> None:
        self.version = version
        self.forgotten = version
        """Changes up to here cannot be replayed any more."""
        self.objects: dict[Key, Object] = {}
        self.history: list[Change] = []
        self._listeners: dict[int, Callable[[Change], None]] = {}
        self._numbers = itertools.count()

    def put(self, thing: Object) -> int:
        """Create or replace an object; returns its resource version."""
        key = key_of(thing)
        before = self.objects.get(key)
        self.version += 1
        after = copy.deepcopy(thing)
        uid = before["metadata"]["uid"] if before else f"uid-{next(self._numbers)}"
        after["metadata"] |= {"resourceVersion": str(self.version), "uid": uid}
        self.objects[key] = after
        self._note(Change(self.version, key[0], before, after))
        return self.version

    def delete(self, thing: Object) -> None:
        """Delete the object of this kind and name, if it is there."""
        before = self.objects.pop(key_of(thing), None)
        if before is not None:
            self.version += 1
            self._note(Change(self.version, key_of(before)[0], before, None))

    def compact(self) -> None:
        """Forget all history."""
        self.history.clear()
        self.forgotten = self.version

    def restart(self, version: int) -> None:
        """Another life of the database, in which the same objects have other versions."""
        self.version = version
        for thing in self.objects.values():
            thing["metadata"]["resourceVersion"] = str(version)
        self.compact()

    def of(self, resource: str) -> list[Object]:
        """Its objects, in the order in which pages have them."""
        return [thing for key, thing in sorted(self.objects.items()) if key[0] == resource]

    def since(self, version: int, resource: str) -> list[Change]:
        """What changed after `version`."""
        return [c for c in self.history if c.version > version and c.resource == resource]

    def listen(self, listener: Callable[[Change], None]) -> Callable[[], None]:
        """Hear every change from now on; returns what ends that."""
        number = next(self._numbers)
        self._listeners[number] = listener
        return lambda: self._listeners.pop(number, None) and None

    def _note(self, change: Change) -> None:
        self.history.append(change)
        for listener in list(self._listeners.values()):
            listener(change)


def key_of(thing: Object) -> Key:
    metadata = thing["metadata"]
    return RESOURCES[thing["kind"]], metadata.get("namespace", ""), metadata["name"]


def selects(labels: str, fields: str) -> Callable[[Object | None], bool]:
    """The meaning of two selectors. Raises ValueError for what an API server does not accept."""
    tests = [_label_test(part) for part in filter(None, labels.split(","))]
    tests += [_field_test(part) for part in filter(None, fields.split(","))]
    return lambda thing: thing is not None and all(test(thing) for test in tests)


def _label_test(part: str) -> Callable[[Object], bool]:
    def label(thing: Object, key: str) -> str | None:
        return thing["metadata"].get("labels", {}).get(key)

    if part.startswith("!"):
        return lambda thing: label(thing, part[1:]) is None
    key, equals, value = part.partition("=")
    if not equals:
        return lambda thing: label(thing, part) is not None
    return lambda thing: label(thing, key) == value.removeprefix("=")


_FIELDS = ("metadata.name", "metadata.namespace", "spec.clusterIP", "spec.type")


def _field_test(part: str) -> Callable[[Object], bool]:
    path, _, value = part.partition("=")
    wanted = not path.endswith("!")
    path = path.removesuffix("!")
    if path not in _FIELDS:
        raise ValueError(f"field label not supported: {path}")
    above, name = path.split(".")
    return lambda thing: (thing.get(above, {}).get(name, "") == value.removeprefix("=")) is wanted
