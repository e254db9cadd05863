"""YAML text into plain values, as fast as PyYAML can be made to.

Owns the loader. Differs from yaml.safe_load in three ways, each towards what an API server
makes of the same text: timestamps stay text, keys are text, and a key that is given twice is
an error.
"""

import re
from functools import lru_cache

import yaml

try:
    from yaml import CSafeLoader as _FastestLoader
except ImportError:  # PyYAML built without libyaml
    from yaml import SafeLoader as _FastestLoader  # type: ignore[assignment]

_UNUSUAL = re.compile(r"[&*!]|<<")
_STR = "tag:yaml.org,2002:str"
_MAP = "tag:yaml.org,2002:map"
_SEQ = "tag:yaml.org,2002:seq"


@lru_cache(maxsize=4096)  # manifests repeat the same few hundred words
def _plain_tag(value: str) -> str:
    """The type of a scalar without quotes (YAML 1.1, as kubectl reads it), timestamps excepted."""
    for tag, pattern in yaml.SafeLoader.yaml_implicit_resolvers.get(value[:1], ()):
        if pattern.match(value) and not tag.endswith(":timestamp"):
            return str(tag)
    return _STR


def load_yaml(text: str) -> object:
    """The value of a text that has one document.

    Anchors, aliases, merges and tags are rare; where their characters do not occur, the
    nodes form a plain tree, and half the time is saved.

    Raises yaml.YAMLError, and RecursionError.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data() if _UNUSUAL.search(text) else loader.tree()
    except ValueError as error:  # a scalar like 0b_ that has a number's shape and is none
        raise yaml.YAMLError(str(error)) from error
    finally:
        loader.dispose()


class _Loader(_FastestLoader):
    def descend_resolver(self, current_node: object, current_index: object) -> None:
        """Nothing: PyYAML's resolving by path is not used here, and costs time."""

    def ascend_resolver(self) -> None:
        """Nothing, likewise."""

    def resolve(self, kind: type[yaml.Node], value: str, implicit: tuple[bool, bool]) -> str:
        """The tag of a node that the text gives none."""
        if kind is not yaml.ScalarNode:
            return _MAP if kind is yaml.MappingNode else _SEQ
        return _plain_tag(value) if implicit[0] else _STR

    def tree(self) -> object:
        node = self.get_single_node()
        return None if node is None else self._value(node)

    def _value(self, node: yaml.Node) -> object:
        if isinstance(node, yaml.ScalarNode):
            return node.value if node.tag == _STR else self.construct_object(node)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item) for item in node.value]
        mapping = {self._key(key): self._value(value) for key, value in node.value}
        if len(mapping) < len(node.value):
            raise _repeated_key([key for key, _ in node.value])
        return mapping

    def _key(self, node: yaml.Node) -> str:
        """Keys are their own text, as in JSON: `80:` is the key "80"."""
        if isinstance(node, yaml.ScalarNode):
            return str(node.value)
        raise yaml.MarkedYAMLError(problem="a key must be plain text", problem_mark=node.start_mark)


def _repeated_key(keys: list[yaml.Node]) -> yaml.MarkedYAMLError:
    names = [key.value for key in keys]
    second = next(key for index, key in enumerate(keys) if key.value in names[:index])
    return yaml.MarkedYAMLError(
        problem=f"the key {second.value!r} is given twice", problem_mark=second.start_mark
    )
