"""Where manifests are: which files the given paths mean, and which directories to watch for them.

Owns directory listings and symbolic links. Reads no manifest.
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from uproxy.model.faults import Fault

STDIN = "-"
_SUFFIXES = (".yaml", ".yml", ".json")
_MOST_LINKS = 40
"""As the kernel follows at most (path_resolution(7))."""


def files_at(path: str) -> list[str]:
    """The manifests that a path means now: itself, or those directly in a directory, by name.

    Raises OSError.
    """
    if path == STDIN:
        return [STDIN]
    if not stat.S_ISDIR(Path(path).stat().st_mode):
        return [path]
    return [str(file) for file in _manifests(Path(path))]


def _manifests(directory: Path) -> list[Path]:
    """Files whose name says so; hidden ones are left out, as kubectl does."""
    names = [entry.name for entry in directory.iterdir()]
    wanted = [name for name in names if name.endswith(_SUFFIXES) and not name.startswith(".")]
    files = (directory / name for name in sorted(wanted))
    return [file for file in files if not file.is_dir()]


def identity(file: str) -> str:
    """Equal for two ways to write one path. Symbolic links are names of their own."""
    return file if file == STDIN else os.path.abspath(file)  # noqa: PTH100 - resolve() follows links


def is_missing(error: OSError) -> bool:
    """Whether a path is not there, as opposed to out of reach for now."""
    return error.errno in (errno.ENOENT, errno.ENOTDIR)


def unreadable(path: str, error: OSError) -> Fault:
    """The fault of a path that cannot be used."""
    reason = "no such file or directory" if is_missing(error) else f"cannot be read: {error.strerror}"
    return Fault(path, 0, "", None, "", reason)


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
            is_there = error.errno == errno.EINVAL  # and no link
            yield here, not is_there or not parts
            if not is_there:
                return
            here /= name
            continue
        yield here, True
        links += 1
        if links > _MOST_LINKS:
            return
        here = Path("/") if target.is_absolute() else here
        parts += _reversed_parts(target)


def _reversed_parts(path: Path) -> list[str]:
    parts = path.parts[1:] if path.is_absolute() else path.parts
    return list(reversed(parts))
