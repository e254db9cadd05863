"""Where manifests are: which files the given paths mean, and which directories to watch for them.

Owns directory listings and symbolic links. Reads no manifest.
"""

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from uproxy.model.faults import Fault

STDIN = "-"
_SUFFIXES = (".yaml", ".yml", ".json")
_MOST_LINKS = 40
"""As the kernel follows at most (path_resolution(7))."""


class Listing(NamedTuple):
    """The files that the given paths mean now, in order, each once; `-` is standard input."""

    files: tuple[str, ...]
    faults: tuple[Fault, ...]


def listed(paths: Sequence[str]) -> Listing:
    """Look at every path. Directories stand for the manifests directly in them, by name."""
    files: dict[str, str] = {}
    faults: list[Fault] = []
    for path in paths:
        try:
            for file in _files(path):
                files.setdefault(file if file == STDIN else os.path.abspath(file), file)  # noqa: PTH100
        except OSError as error:
            faults.append(unreadable(path, error))
    return Listing(tuple(files.values()), tuple(faults))


def unreadable(path: str, error: OSError) -> Fault:
    """The fault of a path that cannot be used."""
    if error.errno == errno.ENOENT:
        return Fault(path, 0, "", None, "", "no such file or directory")
    return Fault(path, 0, "", None, "", f"cannot be read: {error.strerror}")


def _files(path: str) -> list[str]:
    if path == STDIN:
        return [STDIN]
    if not stat.S_ISDIR(Path(path).stat().st_mode):
        return [path]
    return [str(entry) for entry in _manifests(Path(path))]


def _manifests(directory: Path) -> list[Path]:
    with os.scandir(directory) as entries:
        names = [
            entry.name
            for entry in entries
            if entry.name.endswith(_SUFFIXES) and not entry.name.startswith(".") and not entry.is_dir()
        ]
    return [directory / name for name in sorted(names)]


def directories(paths: Sequence[str]) -> dict[Path, bool]:
    """The directories whose changes can change what `paths` mean, by their real names.

    True where anything in the directory matters: it has the file, or a symbolic link on the
    way (a ConfigMap volume swaps one, `..data`), or the first part that does not exist yet.
    False where only the directory's own removal or renaming does.
    """
    found: dict[Path, bool] = {}
    for path in paths:
        if path == STDIN:
            continue
        for directory, matters in _with_links_inside(Path(path)):
            found[directory] = found.get(directory, False) or matters
    return found


def _with_links_inside(path: Path) -> Iterator[tuple[Path, bool]]:
    yield from _way(path)
    try:
        inside = _manifests(path)
    except OSError:  # not a directory, or gone: the way to it is being watched
        return
    yield path.resolve(), True
    for file in inside:
        if file.is_symlink():
            yield from _way(file)


def _way(path: Path) -> Iterator[tuple[Path, bool]]:
    """Every directory that the kernel would look into to find `path`."""
    here = Path("/")
    parts = _reversed_parts(Path.cwd() / path)
    links = 0
    while parts:
        name = parts.pop()
        if name == "..":
            here = here.parent
            continue
        try:
            target = (here / name).readlink()
        except OSError as error:
            is_missing = error.errno != errno.EINVAL  # EINVAL: it is there, and no link
            yield here, is_missing or not parts
            if is_missing:
                return
            here /= name
            continue
        links += 1
        if links > _MOST_LINKS:
            return
        here = Path("/") if target.is_absolute() else here
        parts += _reversed_parts(target)


def _reversed_parts(path: Path) -> list[str]:
    parts: Iterable[str] = path.parts[1:] if path.is_absolute() else path.parts
    return list(parts)[::-1]
