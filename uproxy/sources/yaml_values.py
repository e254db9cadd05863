"""YAML text into plain values, as fast as PyYAML can be made to.

Owns the step from the parser's events to values. Differs from yaml.safe_load, each time
towards what an API server makes of the same text: timestamps stay text, keys are text, and a
key that is given twice is an error.

It is written on events because PyYAML's own composer, in C, recurses without limit, and a
file of dashes would end the process; and because it takes half as long as CSafeLoader.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import cast

import yaml

try:
    from yaml import CSafeLoader as _Parser
except ImportError:  # PyYAML built without libyaml
    from yaml import SafeLoader as _Parser  # type: ignore[assignment]

_COLLECTION_TAGS = (None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_MERGE = "<<"


def load_yaml(text: str) -> object:
    """The value of a text that has one document, or None when it has none.

    Raises yaml.YAMLError, and RecursionError.
    """
    parser = _Parser(text)
    try:
        return _Builder(parser).document()
    finally:
        parser.dispose()


class _Builder:
    def __init__(self, parser: _Parser) -> None:
        self._next = cast(Callable[[], yaml.Event], parser.get_event)
        self._anchors: dict[str | None, object] = {}

    def document(self) -> object:
        self._next()  # the stream's start
        if isinstance(self._next(), yaml.StreamEndEvent):
            return None
        value = self._value(self._next())
        self._next()  # the document's end
        after = self._next()
        if not isinstance(after, yaml.StreamEndEvent):
            raise _problem(after, "a second document begins here")
        return value

    def _value(self, event: yaml.Event) -> object:
        if isinstance(event, yaml.ScalarEvent):
            return self._anchored(event, _scalar(event))
        if isinstance(event, yaml.CollectionStartEvent):
            if event.tag not in _COLLECTION_TAGS:
                raise _problem(event, f"the tag {event.tag!r} is not known")
            is_mapping = isinstance(event, yaml.MappingStartEvent)
            return self._anchored(event, self._mapping() if is_mapping else self._sequence())
        if isinstance(event, yaml.AliasEvent) and event.anchor in self._anchors:
            return self._anchors[event.anchor]
        raise _problem(event, "an alias stands here for an anchor that does not exist")

    def _anchored(self, event: yaml.NodeEvent, value: object) -> object:
        if event.anchor:
            self._anchors[event.anchor] = value
        return value

    def _sequence(self) -> list[object]:
        items: list[object] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            items.append(self._value(event))
        return items

    def _mapping(self) -> dict[str, object]:
        """Keys are their own text, as in JSON: `80:` is the key "80"."""
        mapping: dict[str, object] = {}
        while not isinstance(key := self._next(), yaml.MappingEndEvent):
            if not isinstance(key, yaml.ScalarEvent):
                raise _problem(key, "a key must be plain text")
            if key.value in mapping:
                raise _problem(key, f"the key {key.value!r} is given twice")
            mapping[key.value] = self._value(self._next())
        return _merged(mapping) if _MERGE in mapping else mapping


def _merged(mapping: dict[str, object]) -> dict[str, object]:
    """With the mappings behind `<<` put under it: its own keys count, then the first's."""
    sources = mapping.pop(_MERGE)
    for source in sources if isinstance(sources, list) else [sources]:
        if isinstance(source, dict):
            mapping = {**source, **mapping}
    return mapping


def _scalar(event: yaml.ScalarEvent) -> object:
    if event.implicit[0]:
        return _plain(event.value)
    return event.value if event.implicit[1] else _typed(event.tag or "!", event.value)


@lru_cache(maxsize=4096)  # manifests repeat the same few hundred words
def _plain(text: str) -> object:
    """A scalar without quotes or tag, by its looks (YAML 1.1, as kubectl reads it)."""
    for tag, pattern in yaml.SafeLoader.yaml_implicit_resolvers.get(text[:1], ()):
        if pattern.match(text) and not tag.endswith(":timestamp"):
            return _typed(tag, text)
    return text


def _typed(tag: str, text: str) -> object:
    try:
        return yaml.constructor.SafeConstructor().construct_object(yaml.ScalarNode(tag, text))
    except ValueError as error:  # a scalar like 0b_ that has a number's shape and is none
        raise yaml.YAMLError(str(error)) from error


def _problem(event: yaml.Event, problem: str) -> yaml.MarkedYAMLError:
    mark = cast(yaml.error.Mark | None, event.start_mark)
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
