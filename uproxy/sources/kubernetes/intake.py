"""Bytes of one resource into what is known of it.

Owns decoding, and that one object which nobody can understand harms no other: it is left out, and said
once in the log. What was known of it before stays. Knows no connection.
"""

import logging
from typing import TypeVar

import msgspec

from uproxy.model.events import KubernetesObject
from uproxy.sources.kubernetes import wire
from uproxy.sources.kubernetes.errors import Dropped, Refused
from uproxy.sources.kubernetes.known import Known
from uproxy.sources.kubernetes.mending import mended
from uproxy.sources.kubernetes.resources import Resource

T = TypeVar("T")
Key = tuple[str, str]
"""Namespace, which a Node has not, and name."""

log = logging.getLogger("uproxy.kubernetes")

_STATUS = msgspec.json.Decoder(wire.WatchEvent[wire.Status])
_ENVELOPE = msgspec.json.Decoder(wire.WatchEvent[msgspec.Raw])
_ANYTHING = msgspec.json.Decoder(dict[str, object])


class Intake:
    """Takes what comes for one resource."""

    def __init__(self, resource: Resource, known: Known[Key, KubernetesObject]) -> None:
        self.events = 0
        """Objects that came or went."""
        self._resource = resource
        self._known = known
        self._event = msgspec.json.Decoder(resource.event)
        self._item = msgspec.json.Decoder(resource.item)
        self._skipped: dict[Key, str] = {}

    @property
    def skipped(self) -> int:
        """How many objects are left out now, because they cannot be understood."""
        return len(self._skipped)

    def item(self, raw: msgspec.Raw) -> None:
        """Take an item of a list. Raises nothing: one that does not even say what it is called is counted."""
        try:
            given = decoded(self._item, bytes(raw))
        except msgspec.DecodeError as error:
            self.events += 1
            self._skip(_loose_metadata(bytes(raw)), error)
        else:
            self._put(given)

    def line(self, line: bytes) -> tuple[str, wire.Metadata]:
        """Take a line of a watch; returns the event's type and the object's metadata.

        Raises Refused for an ERROR, and Dropped for what is no event at all.
        """
        try:
            event = decoded(self._event, line)
        except msgspec.DecodeError as error:
            return self._odd_line(line, error)
        metadata = event.object.metadata
        match event.type:
            case "ADDED" | "MODIFIED":
                self._put(event.object)
            case "DELETED":
                self.remove(_key(metadata))
            case "ERROR":
                raise _refusal(line)
            case _:
                pass  # a bookmark is the caller's business
        return event.type, metadata

    def remove(self, key: Key) -> None:
        """An object is gone."""
        self.events += 1
        self._skipped.pop(key, None)
        self._known.remove(key)

    def _put(self, given: wire.Service | wire.EndpointSlice | wire.Node) -> None:
        key = _key(given.metadata)
        self.events += 1
        try:
            thing = self._resource.convert(given)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is about this object
            self._skip(given.metadata, error)
            return
        if self._skipped:
            self._skipped.pop(key, None)
        if thing is None:
            self._known.remove(key)
        else:
            self._known.put(key, thing)

    def _odd_line(self, line: bytes, error: msgspec.DecodeError) -> tuple[str, wire.Metadata]:
        """A Status is no Service, and a field may be of a type that the API does not have yet."""
        try:
            event = decoded(_ENVELOPE, line)
        except msgspec.DecodeError:
            raise Dropped("what came is no watch event") from error
        if event.type == "ERROR":
            raise _refusal(line)
        metadata = _loose_metadata(bytes(event.object))
        if event.type == "DELETED":
            self.remove(_key(metadata))
        elif event.type != "BOOKMARK":
            self.events += 1
            self._skip(metadata, error)
        return event.type, metadata

    def _skip(self, metadata: wire.Metadata, error: Exception) -> None:
        key, text = _key(metadata), str(error)
        self._known.keep(key)
        if self._skipped.get(key) != text:
            self._skipped[key] = text
            name = "/".join(filter(None, key)) or "without a name"
            log.warning("%s %s is left out: %s", self._resource.name, name, text)


def decoded(decoder: msgspec.json.Decoder[T], text: bytes) -> T:
    """What a text says. Raises msgspec.DecodeError, and nothing else, whatever the text."""
    try:
        return decoder.decode(text)
    except msgspec.ValidationError:
        raise
    except (RecursionError, UnicodeError, msgspec.DecodeError):
        try:
            return decoder.decode(mended(text))
        except (RecursionError, UnicodeError) as error:
            raise msgspec.DecodeError(str(error)) from error


def _loose_metadata(text: bytes) -> wire.Metadata:
    """As much as can be read of an object that is not what it should be."""
    try:
        found = decoded(_ANYTHING, text).get("metadata")
    except msgspec.DecodeError:
        found = None
    fields = found if isinstance(found, dict) else {}
    texts = {key: text for key, text in fields.items() if isinstance(text, str)}
    annotations = fields.get("annotations")
    return wire.Metadata(
        texts.get("name", ""),
        texts.get("namespace", ""),
        texts.get("resourceVersion", ""),
        annotations=annotations if isinstance(annotations, dict) else None,
    )


def _key(metadata: wire.Metadata) -> Key:
    return metadata.namespace, metadata.name


def _refusal(line: bytes) -> Refused:
    """Of an ERROR event. A Status that cannot be read either is as good as any failure."""
    try:
        status = decoded(_STATUS, line).object
    except msgspec.DecodeError:
        status = wire.Status(code=500, message="an ERROR event without a Status")
    seconds = status.details.retry_after_seconds if status.details is not None else 0
    return Refused(status.code, status.reason, status.message, float(seconds) or None, in_watch=True)
