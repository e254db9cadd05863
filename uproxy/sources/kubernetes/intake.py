"""Bytes of one resource into what is known of it.

Owns decoding, and that one object which nobody can understand harms no other: it is left out, and said
once in the log. What was known of it before stays. Knows no connection.
"""

import logging

import msgspec

from uproxy.model.events import KubernetesObject
from uproxy.sources.kubernetes import wire
from uproxy.sources.kubernetes.errors import Dropped, Refused
from uproxy.sources.kubernetes.known import Known
from uproxy.sources.kubernetes.resources import Resource

Key = tuple[str, str]
"""Namespace, which a Node has not, and name."""

log = logging.getLogger("uproxy.kubernetes")

_STATUS = msgspec.json.Decoder(wire.WatchEvent[wire.Status])
_METADATA = msgspec.json.Decoder(wire.WatchEvent[wire.Bookmark])
_ITEM_METADATA = msgspec.json.Decoder(wire.Bookmark)


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
        """Take an item of a list."""
        try:
            given = self._item.decode(raw)
        except msgspec.ValidationError as error:
            self.events += 1
            self._skip(_ITEM_METADATA.decode(raw).metadata, error)
        else:
            self._put(given)

    def line(self, line: bytes) -> tuple[str, wire.Metadata]:
        """Take a line of a watch; returns the event's type and the object's metadata.

        Raises Refused for an ERROR, and Dropped for what is no event at all.
        """
        try:
            event = self._event.decode(line)
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
        except ValueError as error:
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
            event = _METADATA.decode(line)
        except msgspec.DecodeError:
            raise Dropped("what came is no watch event") from error
        if event.type == "ERROR":
            raise _refusal(line)
        if event.type == "DELETED":
            self.remove(_key(event.object.metadata))
        elif event.type != "BOOKMARK":
            self.events += 1
            self._skip(event.object.metadata, error)
        return event.type, event.object.metadata

    def _skip(self, metadata: wire.Metadata, error: Exception) -> None:
        key, text = _key(metadata), str(error)
        self._known.keep(key)
        if self._skipped.get(key) != text:
            self._skipped[key] = text
            log.warning("%s %s is left out: %s", self._resource.name, "/".join(filter(None, key)), text)


def _key(metadata: wire.Metadata) -> Key:
    return metadata.namespace, metadata.name


def _refusal(line: bytes) -> Refused:
    """Of an ERROR event. A Status that cannot be read either is as good as any failure."""
    try:
        status = _STATUS.decode(line).object
    except msgspec.DecodeError:
        status = wire.Status(code=500, message="an ERROR event without a Status")
    seconds = status.details.retry_after_seconds if status.details is not None else 0
    return Refused(status.code, status.reason, status.message, float(seconds) or None, in_watch=True)
