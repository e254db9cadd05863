"""One resource of a cluster, followed: listed once, and watched from then on, as client-go's Reflector does.

Owns the protocol: the list that a watch begins with (WatchList, KEP-3157), or pages where a server does
not do that; bookmarks; going on where a connection ended; and a new list when the server has forgotten
that place (410). What is known stays known all the while, and only differences are told.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import NoReturn

import msgspec
from aiohttp import StreamReader

from uproxy.model.events import KubernetesObject
from uproxy.sources.kubernetes.api import Api
from uproxy.sources.kubernetes.complaints import Complaints
from uproxy.sources.kubernetes.errors import Dropped, Refused, Silent, Trouble
from uproxy.sources.kubernetes.intake import Intake, Key, decoded
from uproxy.sources.kubernetes.known import Known
from uproxy.sources.kubernetes.resources import Resource
from uproxy.sources.kubernetes.status import Health, ResourceStatus
from uproxy.sources.kubernetes.timing import Backoff, Timing
from uproxy.sources.kubernetes.wire import ListPage, Metadata

_PAGE = 500
_SLICE_S = 0.002
"""Longer than this at a time no work here holds up traffic, but for a single object that takes longer."""
_LIVED_S = 5.0
"""A connection that lasted for so long was a good one."""
_SILENCES_MAX = 2
"""Watches in a row that say nothing at all. Watching from a version that a restored database has yet to
reach is such a silence, and ends only with a new list."""
_END_OF_LIST = "k8s.io/initial-events-end"
_STUCK_MAX = 2
"""Watches in a row that the server itself ends with an error where nothing has moved: going on from
there can fail for ever, as where an event cannot be decoded any more. client-go lists anew at once."""
_PASSING = (401, 403, 408, 429)
"""What a new list would meet as well."""
_NO_STREAM = (400, 422)
"""Invalid: how servers answer to `sendInitialEvents` that do not know it."""

_list_page = msgspec.json.Decoder(ListPage)


class Reflector:
    """Keeps `known` in line with the cluster; `completed` is called after the first complete list."""

    def __init__(
        self,
        resource: Resource,
        known: Known[Key, KubernetesObject],
        api: Api,
        *,
        timing: Timing,
        complaints: Complaints,
        completed: Callable[[], None],
    ) -> None:
        self._resource = resource
        self._known = known
        self._api = api
        self._timing = timing
        self._completed = completed
        self._intake = Intake(resource, known)
        self._health = Health(resource.name, timing.now, complaints)
        self._backoff = Backoff(timing.chance)
        self._version = ""
        """Where to go on; empty while there is no complete list."""
        self._listing = False
        self._streams = True
        """Whether this server begins a watch with a list."""
        self._any_age = True
        """Whether a list out of a server's cache will do: yes, until something newer may be known."""
        self._limit = _PAGE
        self._heard = False
        self._silences = 0
        self._stuck = 0

    @property
    def status(self) -> ResourceStatus:
        """How it stands now."""
        return self._health.status(self._intake.events, self._intake.skipped, len(self._known))

    async def run(self) -> NoReturn:
        """Follow until cancelled. Raises AccessError when there are no credentials to begin with."""
        while True:
            try:
                await self._follow()
            except Trouble as trouble:
                wait_s = self._after(trouble)
                if wait_s:
                    await self._timing.sleep(wait_s)

    async def _follow(self) -> None:
        """One connection's worth."""
        if self._version:
            await self._watch({"resourceVersion": self._version})
        elif self._streams:
            await self._stream()
        else:
            await self._list()

    # ---- watching ----

    async def _stream(self) -> None:
        """A watch that begins with a list, which a bookmark ends."""
        self._begin_list()
        query = {"resourceVersion": "", "sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        try:
            await self._watch(query)
        except Refused as refusal:
            if not self._listing or refusal.code not in _NO_STREAM:
                raise
        except Silent:
            self._streams = not self._listing
            raise
        self._streams = not self._listing  # no bookmark came: this server does not know what that is

    async def _watch(self, query: Mapping[str, str]) -> None:
        """Take what comes, until the server ends the watch, as it does every few minutes."""
        more = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(self._timing.watch_timeout_s()),
        }
        self._heard = False
        async with self._api.get(self._resource.path, {**self._resource.selectors, **query, **more}) as body:
            self._health.connected()
            await self._take_all(body)
        if not self._heard and self._health.connected_for_s < 1 and not self._listing:
            raise Dropped("the watch ended at once")

    async def _take_all(self, body: StreamReader) -> None:
        now = self._timing.now
        pause_at = now() + _SLICE_S
        async for lines in _lines(body):
            self._heard = True
            if not self._listing:
                self._backoff.reset()
            for line in lines:
                if self._take(line):
                    await self._complete()
                if now() >= pause_at:
                    await asyncio.sleep(0)
                    pause_at = now() + _SLICE_S

    def _take(self, line: bytes) -> bool:
        """Take one line; returns whether it completes the list."""
        kind, metadata = self._intake.line(line)
        if kind == "BOOKMARK":
            return self._bookmark(metadata)
        if not self._listing and metadata.resource_version:
            self._version = metadata.resource_version
            self._stuck = 0
        return False

    def _bookmark(self, metadata: Metadata) -> bool:
        version = metadata.resource_version
        if self._listing:
            if (metadata.annotations or {}).get(_END_OF_LIST) != "true":
                return False
        elif _is_older(version, self._version):
            raise Refused(410, "Expired", f"resource versions went back from {self._version} to {version}")
        self._version = version
        self._stuck = 0
        return self._listing

    # ---- listing ----

    def _begin_list(self) -> None:
        self._listing = True
        self._known.begin_list()

    async def _list(self) -> None:
        self._begin_list()
        query = {"resourceVersion": "0"} if self._any_age else {}
        while True:
            page = await self._page(query)
            await self._take_items(page)
            if not page.metadata.continue_:
                break
            query = {"continue": page.metadata.continue_}
        if not page.metadata.resource_version:
            raise Dropped("what came is no list: it has no resourceVersion to watch from")
        self._version = page.metadata.resource_version
        await self._complete()

    async def _page(self, query: Mapping[str, str]) -> ListPage:
        more = {"limit": str(self._limit)} if self._limit else {}
        async with self._api.get(self._resource.path, {**self._resource.selectors, **query, **more}) as body:
            self._health.connected()
            content = await body.read()
        try:
            return decoded(_list_page, content)
        except msgspec.DecodeError as error:
            raise Dropped(f"what came is no list: {error}") from error

    async def _take_items(self, page: ListPage) -> None:
        now = self._timing.now
        pause_at = now() + _SLICE_S
        for raw in page.items or ():
            self._intake.item(raw)
            if now() >= pause_at:
                await asyncio.sleep(0)
                pause_at = now() + _SLICE_S

    async def _complete(self) -> None:
        """The list has been taken whole: what it did not have is gone."""
        for number, key in enumerate(self._known.end_list(), start=1):
            self._intake.remove(key)
            if number % 500 == 0:
                await asyncio.sleep(0)
        self._listing = self._any_age = False
        self._limit = _PAGE
        if self._health.listed():
            self._completed()

    # ---- trouble ----

    def _after(self, trouble: Trouble) -> float:
        """What is to be done about it; returns how long to wait before."""
        if self._health.connected_for_s > _LIVED_S:
            self._backoff.reset()
        self._silences = self._silences + 1 if isinstance(trouble, Silent) and not self._heard else 0
        self._stuck += self._is_rejected(trouble)
        self._health.failed(trouble)
        is_gone = isinstance(trouble, Refused) and trouble.code == 410
        if is_gone or self._silences >= _SILENCES_MAX or self._stuck >= _STUCK_MAX:
            self._forget_place()
            if self._backoff.fresh:
                self._backoff.wait_s()
                return 0.0
        return self._backoff.wait_s(trouble.retry_after_s if isinstance(trouble, Refused) else None)

    def _is_rejected(self, trouble: Trouble) -> bool:
        """Whether the server will not go on from where we are."""
        if not self._version or not isinstance(trouble, Refused) or trouble.code in _PASSING:
            return False
        return trouble.in_watch or trouble.code < 500

    def _forget_place(self) -> None:
        """A list that expires between two pages is asked for in one piece the next time."""
        if self._listing and not self._streams:
            self._limit = 0
        self._version = ""
        self._any_age = False
        self._silences = self._stuck = 0


async def _lines(body: StreamReader) -> AsyncIterator[list[bytes]]:
    """The complete lines of each piece that comes. What an end cuts off is left out."""
    rest = b""
    async for piece in body.iter_any():
        *lines, rest = (rest + piece).split(b"\n")
        if lines:
            yield lines


def _is_older(version: str, than: str) -> bool:
    """Resource versions of one resource can be compared as numbers (KEP-5504)."""
    return version.isdigit() and than.isdigit() and int(version) < int(than)
