"""A kubeconfig file: which cluster and which user its current context means.

Owns finding them, and saying in one line why they are not to be found. What they amount to on a
connection is `access`'s business.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml
from msgspec import Struct, field

from uproxy.kit.reading import read_regular
from uproxy.sources.kubernetes.errors import AccessError

T = TypeVar("T")

Fields = dict[str, Any]
"""A cluster or a user, as written."""


class _Context(Struct):
    cluster: str
    user: str = ""


class _NamedContext(Struct):
    name: str
    context: _Context


class _NamedCluster(Struct):
    name: str
    cluster: Fields


class _NamedUser(Struct):
    name: str
    user: Fields | None = None


class _File(Struct):
    current_context: str = field(default="", name="current-context")
    contexts: list[_NamedContext] | None = None
    clusters: list[_NamedCluster] | None = None
    users: list[_NamedUser] | None = None


_PATHS = ("certificate-authority", "client-certificate", "client-key", "tokenFile")


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """The current context of one file. Paths in it are absolute."""

    path: Path
    cluster: Fields
    user: Fields

    @property
    def files(self) -> tuple[Path, ...]:
        """Itself, and every file that it names."""
        named = (fields.get(key) for fields in (self.cluster, self.user) for key in _PATHS)
        return (self.path, *(Path(name) for name in named if name))


def read_kubeconfig(path: Path) -> Kubeconfig:
    """Read a file. Raises AccessError when it cannot be used."""
    try:
        given = msgspec.convert(yaml.safe_load(read_regular(path)), _File)
        return _current(path, given)
    except OSError as error:
        raise AccessError(f"kubeconfig {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise AccessError(f"kubeconfig {path}: is not YAML: {_problem(error)}") from error
    except (ValueError, msgspec.ValidationError) as error:
        raise AccessError(f"kubeconfig {path}: {error}") from error


def _problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return " ".join(str(error).split())


def _current(path: Path, given: _File) -> Kubeconfig:
    if not given.current_context:
        raise ValueError("has no current-context")
    contexts = {entry.name: entry.context for entry in given.contexts or ()}
    clusters = {entry.name: entry.cluster for entry in given.clusters or ()}
    users = {entry.name: entry.user or {} for entry in given.users or ()}
    context = _entry(contexts, "context", given.current_context)
    cluster = _entry(clusters, "cluster", context.cluster)
    user = _entry(users, "user", context.user) if context.user else {}
    return Kubeconfig(path, _absolute(cluster, path), _absolute(user, path))


def _entry(entries: dict[str, T], kind: str, name: str) -> T:
    if name not in entries:
        raise ValueError(f"has no {kind} {name!r}")
    return entries[name]


def _absolute(fields: Fields, path: Path) -> Fields:
    """Paths are relative to the file that they stand in."""
    base = path.absolute().parent
    return {key: str(base / text) if key in _PATHS and text else text for key, text in fields.items()}
