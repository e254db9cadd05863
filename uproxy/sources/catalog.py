"""All manifests together: which objects there are, and what is wrong.

Owns two rules. Of two objects with one name the first, in the order of files and documents,
counts, and the other is a fault. And a mistake never takes away what worked: a faulty object
keeps its last good version, and a file in which something cannot even be told what it is keeps
every object that it had. No input or output.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from uproxy.model.endpoint import EndpointSlice
from uproxy.model.events import KubernetesObject
from uproxy.model.faults import Fault
from uproxy.model.names import NamespacedName
from uproxy.sources.manifest import Found, Manifest


class ObjectId(NamedTuple):
    """What tells an object from all others."""

    kind: str
    key: NamespacedName


class Entry(NamedTuple):
    """An object's place, and the model objects that it stands for: its last good ones."""

    file: str
    document: int
    objects: tuple[KubernetesObject, ...]


@dataclass(frozen=True, slots=True)
class Catalog:
    """What all manifests say at one moment."""

    entries: Mapping[ObjectId, Entry] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    skipped: Counter[str] = field(default_factory=Counter)
    """How many objects of each kind are of no use to a Service proxy."""

    def objects(self) -> dict[ObjectId, KubernetesObject]:
        """Every model object. An Endpoints object may be several, so the names are the model's own."""
        return {
            ObjectId(kind, known.key): known
            for (kind, _), entry in self.entries.items()
            for known in entry.objects
        }


def merged(manifests: Iterable[Manifest], last: Mapping[ObjectId, Entry]) -> Catalog:
    """The catalog of `manifests`, where `last` has the entries of the one before it."""
    merger = _Merger(last)
    for manifest in manifests:
        merger.add(manifest)
    return Catalog(merger.entries, tuple(merger.faults), merger.skipped)


class _Merger:
    def __init__(self, last: Mapping[ObjectId, Entry]) -> None:
        self._last = last
        self.entries: dict[ObjectId, Entry] = {}
        self.faults: list[Fault] = []
        self.skipped: Counter[str] = Counter()

    def add(self, manifest: Manifest) -> None:
        unidentified = [manifest.fault] if manifest.fault else []
        for found in manifest.found:
            if found.converted.key is None and not found.converted.skipped:
                unidentified += found.converted.faults
            else:
                self._add_object(manifest.file, found)
        if unidentified:
            stale = self._keep_all(manifest.file)
            self.faults += [replace(fault, stale=stale) for fault in unidentified]

    def _add_object(self, file: str, found: Found) -> None:
        converted = found.converted
        if converted.skipped or converted.key is None:
            self.skipped[converted.kind] += 1
            return
        name = ObjectId(converted.kind, converted.key)
        if name in self.entries:
            self.faults.append(self._repeated(file, found.document, name))
            return
        objects = converted.objects
        if converted.faults:
            self.faults.extend(converted.faults)
            objects = self._last[name].objects if name in self._last else ()
        self.entries[name] = Entry(file, found.document, objects)

    def _repeated(self, file: str, document: int, name: ObjectId) -> Fault:
        first = self.entries[name]
        return Fault(
            file, document, name.kind, name.key, "",
            f"is defined twice; the one in {first.file}, document {first.document}, is used",
        )  # fmt: skip

    def _keep_all(self, file: str) -> tuple[NamespacedName, ...]:
        """Keep what the file had; returns the Services that would be missing something now."""
        kept: list[KubernetesObject] = []
        for name, entry in self._last.items():
            if entry.file == file and name not in self.entries:
                self.entries[name] = entry
                kept += entry.objects
        services = (known.service if isinstance(known, EndpointSlice) else known.key for known in kept)
        return tuple(dict.fromkeys(services))
