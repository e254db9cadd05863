"""Noticing that something on disk changed: the one door to inotify(7).

Owns watches and the settling of bursts. It says only that it is time to look again, never
what changed: whoever looks compares with what was there before, so that a lost event (the
kernel's queue is bounded) loses nothing.
"""

import asyncio
import errno
from collections.abc import Mapping
from pathlib import Path

from asyncinotify import Event, Inotify, Mask, Watch

from uproxy.errors import UproxyError
from uproxy.model.faults import Fault

_OWN = Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR
_ANYTHING = _OWN | Mask.CREATE | Mask.DELETE | Mask.MOVE | Mask.ATTRIB | Mask.MODIFY | Mask.CLOSE_WRITE
_QUIET_S = 0.025
"""A burst is over when nothing happened for this long: an editor's rename, a `..data` swap."""
_MOST_ROUNDS = 8
"""A burst is cut off after 0.2 s, so that a busy directory cannot hide a change."""
_WRITER_PATIENCE_S = 2.0
"""How long a file that a writer holds open counts as unfinished: `kubectl get ... > FILE`
empties FILE a second or two before it writes."""


class Watcher:
    """An inotify instance and its watches, to be used as a context manager.

    Raises UproxyError when the kernel gives no instance.
    """

    def __init__(self) -> None:
        try:
            self._inotify = Inotify(sync_timeout=0)
        except OSError as error:
            raise UproxyError(f"inotify is not available: {error.strerror}") from error
        self._watches: dict[Path, Watch] = {}
        self._writing: dict[Path, float] = {}

    def __enter__(self) -> "Watcher":
        return self

    def __exit__(self, *_: object) -> None:
        self._inotify.close()

    @property
    def unfinished(self) -> frozenset[Path]:
        """Files that are being written in place right now, by their real names."""
        return frozenset(self._writing)

    def watch(self, directories: Mapping[Path, bool]) -> tuple[bool, tuple[Fault, ...]]:
        """Watch exactly these directories; see `places.directories` for what the bools mean.

        Returns whether any of them is new (what it has may have changed unseen before) and
        the faults of those that cannot be watched.
        """
        before = {watch.wd for watch in self._watches.values()}
        watches: dict[Path, Watch] = {}
        faults: list[Fault] = []
        for path, matters in directories.items():
            try:
                watches[path] = self._inotify.add_watch(path, _ANYTHING if matters else _OWN)
            except OSError as error:
                if matters and error.errno not in (errno.ENOENT, errno.ENOTDIR):
                    faults.append(_unwatched(path, error))
        self._replace(watches)
        return {watch.wd for watch in watches.values()} - before != set(), tuple(faults)

    def _replace(self, watches: dict[Path, Watch]) -> None:
        wanted = {watch.wd for watch in watches.values()}
        for path, watch in watches.items():
            watch.path = path  # a directory that was renamed keeps its watch
        for watch in self._watches.values():
            if watch.wd not in wanted:
                try:
                    self._inotify.rm_watch(watch)
                except OSError:
                    continue  # the directory is gone, and the kernel has dropped the watch
        self._watches = watches

    async def changed(self, at_most_s: float | None) -> None:
        """Wait until something has happened, and then nothing more for a moment.

        Returns early when a writer has run out of patience, or after `at_most_s`.
        """
        now = asyncio.get_running_loop().time
        deadlines = [*self._writing.values(), *([now() + at_most_s] if at_most_s else [])]
        try:
            async with asyncio.timeout_at(min(deadlines, default=None)):
                self._note(await self._inotify.get(), now())
        except TimeoutError:
            self._writing = {path: until for path, until in self._writing.items() if until > now()}
        else:
            await self._settled()

    async def _settled(self) -> None:
        for _ in range(_MOST_ROUNDS):
            await asyncio.sleep(_QUIET_S)
            events = list(self._inotify)
            for event in events:
                self._note(event, asyncio.get_running_loop().time())
            if not events:
                return

    def _note(self, event: Event, now: float) -> None:
        path = event.path
        if path is None:
            return
        if event.mask & Mask.MODIFY:
            self._writing.setdefault(path, now + _WRITER_PATIENCE_S)
        elif event.mask & (Mask.CLOSE_WRITE | Mask.DELETE | Mask.MOVE):
            self._writing.pop(path, None)


def _unwatched(path: Path, error: OSError) -> Fault:
    reason = "the limit fs.inotify.max_user_watches" if error.errno == errno.ENOSPC else error.strerror
    return Fault(str(path), 0, "", None, "", f"cannot be watched, so changes go unnoticed: {reason}")
