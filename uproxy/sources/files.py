"""Manifests on disk as a source: `-f FILE`, `-f DIRECTORY`, `-f -`.

Owns reading and the sending of differences. What a file says is `manifest`'s business, what
all of them amount to is `catalog`'s, and when to look again is `watcher`'s.
"""

import os
import stat
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from uproxy.kit.reading import read_regular
from uproxy.kit.threads import in_thread
from uproxy.model.events import Delete, Event, Faulted, KubernetesObject, Synced, Upsert
from uproxy.model.faults import Fault
from uproxy.sources.catalog import Catalog, ObjectId, merged
from uproxy.sources.manifest import Manifest, Reader
from uproxy.sources.places import STDIN, directories, files_at, identity, is_missing, unreadable
from uproxy.sources.watcher import Watcher

NAME = "files"
_MOST_LOOKS = 10
_RETRY_S = 5.0
"""What is out of reach for now (no descriptors left, a network disk) makes no event when it is back."""

_Version = tuple[int, ...]


class FileSource:
    """The objects of some manifests, once or as they change.

    `emit` is called on the event loop: every object, the faults and Synced first, then only
    differences.
    """

    def __init__(self, paths: Sequence[str], emit: Callable[[Event], None]) -> None:
        self._paths = tuple(paths)
        self._emit = emit
        self._listings: dict[str, list[str]] = {}
        self._files: dict[str, _File] = {}
        self._retry = False
        self._starts = False
        """A pipe that is named (`-f <(...)`) is waited for now, and at no other time."""
        self._catalog = Catalog()
        self._sent: dict[ObjectId, KubernetesObject] = {}

    @property
    def objects(self) -> tuple[KubernetesObject, ...]:
        """Everything known, last good versions included."""
        return tuple(self._catalog.objects().values())

    @property
    def skipped(self) -> Counter[str]:
        """How many objects of each kind were left aside."""
        return self._catalog.skipped

    def load(self) -> tuple[Fault, ...]:
        """Read everything now. Emits nothing; `run` sends what is known."""
        self._starts = True
        self._catalog = self._look(frozenset())
        self._starts = False
        return self._catalog.faults

    async def run(self) -> None:
        """Send what there is, then every change, until cancelled.

        Files are read and converted in a thread, so that the event loop never waits for them.
        Raises UproxyError when the kernel refuses to watch at all.
        """
        with Watcher() as watcher:
            self._send(await in_thread(self._watch_and_look, watcher), first=True)
            self._emit(Synced(NAME))
            while True:
                await watcher.changed(_RETRY_S if self._retry else None)
                self._send(await in_thread(self._watch_and_look, watcher), first=False)

    def _send(self, catalog: Catalog, first: bool) -> None:
        before, faults_before = self._sent, self._catalog.faults
        self._catalog, self._sent = catalog, catalog.objects()
        for name, known in self._sent.items():
            if before.get(name) != known:
                self._emit(Upsert(known))
        for name, known in before.items():
            if name not in self._sent:
                self._emit(Delete(known))
        if first or catalog.faults != faults_before:
            self._emit(Faulted(NAME, catalog.faults))

    def _watch_and_look(self, watcher: Watcher) -> Catalog:
        """Watches come before the look, so that what happens after it makes an event.

        A directory that appears in between is seen by looking once more.
        """
        faults: tuple[Fault, ...] = ()
        for _ in range(_MOST_LOOKS):
            has_new, faults = watcher.watch(directories(self._paths))
            if not has_new:
                break
        return self._look(watcher.unfinished, faults)

    def _look(self, unfinished: frozenset[Path], watch_faults: tuple[Fault, ...] = ()) -> Catalog:
        self._retry = bool(watch_faults)
        faults = list(watch_faults)
        files: dict[str, _File] = {}
        manifests: list[Manifest] = []
        for name in self._names(faults):
            files[name] = self._files.get(name) or _File(name)
            try:
                pipe = self._starts and name in self._paths
                manifests.append(files[name].read(unfinished, pipe=pipe))
                self._retry |= files[name].out_of_reach
            except FileNotFoundError as error:
                faults.append(unreadable(name, error))
        self._files = files
        catalog = merged(manifests, self._catalog.entries)
        return Catalog(catalog.entries, (*faults, *catalog.faults), catalog.skipped)

    def _names(self, faults: list[Fault]) -> list[str]:
        """Every file once. A directory that is out of reach keeps the files that it had."""
        for path in self._paths:
            try:
                self._listings[path] = files_at(path)
            except OSError as error:
                faults.append(unreadable(path, error))
                self._retry |= not is_missing(error)
                if is_missing(error):
                    self._listings[path] = []
        names = [name for path in self._paths for name in self._listings.get(path, [])]
        return list({identity(name): name for name in reversed(names)}.values())[::-1]


class _File:
    """One file, read again only when it is another version."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._reader = Reader(name)
        self._version: _Version | None = None
        self._manifest = Manifest(name, ())
        self.out_of_reach = False
        """Whether the last `read` failed in a way that may pass by itself."""

    def read(self, unfinished: frozenset[Path], *, pipe: bool) -> Manifest:
        """What the file says now, or said before if it is being written. With `pipe` it may be one, whose
        end is waited for.

        Raises FileNotFoundError; every other trouble is the manifest's fault.
        """
        self.out_of_reach = False
        try:
            version = _version(self._name)
            if version != self._version and not (self._version and _is_in(self._name, unfinished)):
                self._manifest = self._reader.read(_text(self._name, pipe=pipe))
                self._version = version
            return self._manifest
        except FileNotFoundError:
            raise
        except OSError as error:
            fault = unreadable(self._name, error)
            self.out_of_reach = True
        self._version = None
        return Manifest(self._name, (), fault)


def _text(name: str, *, pipe: bool) -> str:
    """Octets that are no UTF-8 become lone surrogates, which are `documents`' to find fault with."""
    if name == STDIN:
        content = sys.stdin.buffer.read()
    elif pipe and stat.S_ISFIFO(Path(name).stat().st_mode):
        content = Path(name).read_bytes()
    else:
        content = read_regular(name)
    return content.decode("utf-8-sig", "surrogateescape")


def _version(name: str) -> _Version:
    """Differs when the file's content may. Pipes and standard input can be read only once."""
    if name == STDIN:
        return (0,)
    status = Path(name).stat()
    if not stat.S_ISREG(status.st_mode):
        return (status.st_dev, status.st_ino)
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _is_in(name: str, unfinished: frozenset[Path]) -> bool:
    return bool(unfinished) and Path(os.path.realpath(name)) in unfinished
