"""A stand-in for a Kubernetes API server: the real protocol over TLS, with faults to order.

It lists in pages, watches, and streams lists into watches, for Services, EndpointSlices and Nodes, and is
as strict about what it is asked as the real one. On an event loop: `ApiServer`. In a thread, for tests
that start programs: `running_api_server`.
"""

import asyncio
import base64
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tests.cluster.certificates import Authority
from tests.cluster.http_connection import Connection, Request
from tests.cluster.storage import Change, Object, Storage, selects

T = TypeVar("T")

PATHS = {
    "/api/v1/services": ("services", "v1", "Service"),
    "/apis/discovery.k8s.io/v1/endpointslices": ("endpointslices", "discovery.k8s.io/v1", "EndpointSlice"),
    "/api/v1/nodes": ("nodes", "v1", "Node"),
}
EVENTS = "/apis/events.k8s.io/v1/namespaces/"
CLIENT = "system:kube-proxy"
EVENT_FIELDS = ("eventTime", "reportingController", "reportingInstance", "action", "reason", "type")
END_OF_LIST = {"k8s.io/initial-events-end": "true"}


class Refusal(Exception):
    """An answer that is a Status."""

    def __init__(self, code: int, reason: str, message: str, retry_after_s: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_s = retry_after_s
        self.status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        self.status |= {"message": message, "reason": reason, "code": code}
        if retry_after_s:
            self.status["details"] = {"retryAfterSeconds": retry_after_s}


class ApiServer:
    """One server. What it has is in `storage`; a test sets its attributes for what it wants to go wrong."""

    def __init__(self, directory: Path, storage: Storage | None = None) -> None:
        self.storage = storage or Storage()
        self.directory = directory
        self.authority = Authority(directory)
        self.tokens = {"first-token"}
        """Bearer tokens that are accepted."""
        self.client_names = {CLIENT}
        """Names in client certificates that are accepted."""
        self.watch_list = "yes"
        """Whether it streams lists: yes; `refuses`, as a server without the feature does; `ignores`."""
        self.gone_as_status = False
        """Whether "too old" is the answer itself, and not an event in it."""
        self.pages_expire = False
        """Whether there never is a second page."""
        self.bookmarks_go_back = False
        """Whether those who watch from the future are told a present bookmark; real ones hear nothing."""
        self.bookmark_interval_s = 60.0
        self.watch_error: Refusal | None = None
        """Told, as an event, to all who watch from a version on."""
        self.lists_have_versions = True
        self.compresses = False
        """Whether lists are compressed, whatever was asked for: some proxies do that."""
        self.forbidden: set[str] = set()
        """Resources that nobody may have."""
        self.refusals: list[Refusal] = []
        """What the next requests are answered, each by one."""
        self.refusals_of: dict[str, list[Refusal]] = {}
        """The same for the next requests of one resource."""
        self.cuts: list[int] = []
        """After how many lines the next watches are cut, in the middle of one; a page, in its middle."""
        self.requests: list[Request] = []
        """All that were taken, refused ones too."""
        self.events: list[dict[str, Any]] = []
        """Created by clients."""
        self.port = 0
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._watches: set[_Watch] = set()
        self._snapshots: dict[tuple[str, int], list[Object]] = {}

    # ---- life ----

    async def start(self, listening: socket.socket | None = None) -> None:
        """Serve, on `listening` or on loopback: on the same port each time."""
        if not self.authority.certificate.exists():
            await self.authority.make()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.authority.certificate)
        # Python 3.13 and later want more of an authority's certificate than Go does.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.load_cert_chain(self.directory / "server.crt", self.directory / "server.key")
        context.verify_mode = ssl.CERT_OPTIONAL
        where = {"sock": listening} if listening else {"host": "127.0.0.1", "port": self.port}
        self._server = await asyncio.start_server(self._serve, ssl=context, **where)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """End at once, with all connections."""
        if self._server is not None:
            self._server.close()
            ending = [connection.task for connection in self._connections]
            self.drop_all()
            await asyncio.gather(*ending, return_exceptions=True)
            self._server = None
            await asyncio.sleep(0)  # sockets are closed a turn after their transports

    @property
    def watching(self) -> int:
        """How many watches are open."""
        return len(self._watches)

    def drop_all(self) -> None:
        """Cut every connection."""
        for connection in list(self._connections):
            connection.cut()

    def freeze_all(self) -> None:
        """Every open connection says nothing any more. New ones do."""
        for connection in self._connections:
            connection.freeze()

    def end_watches(self) -> None:
        """End every watch in good order, as happens every few minutes."""
        for watch in list(self._watches):
            watch.finish()

    def bookmark(self) -> None:
        """Send a bookmark to every watch, as happens every minute."""
        for watch in list(self._watches):
            watch.bookmark()

    def tell(self, resource: str, lines: list[bytes]) -> None:
        """Say these lines to every watcher of a resource, whatever the storage has."""
        for watch in self._watches:
            if watch.resource == resource:
                watch.say_encoded(lines)

    # ---- clients' files ----

    def token_kubeconfig(self, path: Path, token_file: Path, address: str = "127.0.0.1") -> Path:
        """A kubeconfig with a `tokenFile`, as kubeadm makes for kube-proxy."""
        replace(token_file, next(iter(self.tokens)) + "\n")
        return self.kubeconfig(path, {"tokenFile": str(token_file)}, address)

    def kubeconfig(self, path: Path, user: dict[str, Any], address: str = "127.0.0.1") -> Path:
        """A kubeconfig for a user, written as JSON, which is YAML."""
        cluster = {
            "server": f"https://{address}:{self.port}",
            "certificate-authority": str(self.authority.certificate),
            "tls-server-name": "localhost",
        }
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "default",
            "contexts": [{"name": "default", "context": {"cluster": "default", "user": "default"}}],
            "clusters": [{"name": "default", "cluster": cluster}],
            "users": [{"name": "default", "user": user}],
        }
        path.write_text(json.dumps(config))
        return path

    # ---- requests ----

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer)
        self._connections.add(connection)
        try:
            while (request := await connection.request()) is not None:
                self.requests.append(request)
                await self._answer(request, connection)
        except (ConnectionError, ssl.SSLError, asyncio.CancelledError):
            pass  # its client, or a test, has ended it
        finally:
            try:
                await connection.closed()
            finally:
                self._connections.discard(connection)

    async def _answer(self, request: Request, connection: Connection) -> None:
        try:
            self._check(request)
            if request.path.startswith(EVENTS):
                await connection.answer(201, self._create(request))
                return
            resource, version, kind = PATHS[request.path]
            if request.query.get("watch") in ("true", "1"):
                await self._watch(request.query, resource, connection)
            else:
                page = {"kind": f"{kind}List", "apiVersion": version} | self._page(request.query, resource)
                connection.cut_after = self.cuts.pop(0) if self.cuts else None
                await connection.answer(200, page, compress=self.compresses)
        except Refusal as refusal:
            more = {"Retry_After": str(refusal.retry_after_s)} if refusal.retry_after_s else {}
            await connection.answer(refusal.code, refusal.status, **more)

    def _check(self, request: Request) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        known = scheme.lower() == "bearer" and token in self.tokens
        if not known and request.certificate_name not in self.client_names:
            raise Refusal(401, "Unauthorized", "Unauthorized")
        is_event = request.path.startswith(EVENTS) and request.method == "POST"
        if not is_event and request.path not in PATHS:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        resource = "events" if is_event else PATHS[request.path][0]
        if self.refusals_of.get(resource):
            raise self.refusals_of[resource].pop(0)
        if resource in self.forbidden:
            raise Refusal(
                403,
                "Forbidden",
                f'{resource} is forbidden: User "{CLIENT}" cannot list resource "{resource}"',
            )

    def _create(self, request: Request) -> Object:
        """An Event, if it has the fields that a real server insists on."""
        event: Object = json.loads(request.body)
        wrong = [field for field in EVENT_FIELDS if not event.get(field)]
        if event["kind"] != "Event" or event["apiVersion"] != "events.k8s.io/v1":
            wrong.append("kind")
        if request.path != f"{EVENTS}{event['metadata'].get('namespace')}/events":
            wrong.append("metadata.namespace")
        if wrong:
            raise Refusal(422, "Invalid", f"Event is invalid: {', '.join(wrong)}")
        self.events.append(event)
        return event

    def _selected(self, query: dict[str, str]) -> Callable[[Object | None], bool]:
        try:
            return selects(query.get("labelSelector", ""), query.get("fieldSelector", ""))
        except ValueError as error:
            raise Refusal(400, "BadRequest", str(error)) from error

    # ---- lists ----

    def _page(self, query: dict[str, str], resource: str) -> dict[str, Any]:
        version, start = self._place(query, resource)
        if not start:
            self._snapshots[resource, version] = self.storage.of(resource)
        things = list(filter(self._selected(query), self._snapshots[resource, version]))
        # From its cache (version 0) a server gives everything, whatever the limit.
        limit = 0 if query.get("resourceVersion") == "0" else int(query.get("limit", 0))
        end = start + limit if limit else len(things)
        metadata = {"resourceVersion": str(version) if self.lists_have_versions else ""}
        if end < len(things):
            token = {"v": version, "start": end}
            metadata["continue"] = base64.urlsafe_b64encode(json.dumps(token).encode()).decode()
            metadata["remainingItemCount"] = len(things) - end
        return {"metadata": metadata, "items": things[start:end]}

    def _place(self, query: dict[str, str], resource: str) -> tuple[int, int]:
        """Which version a page is of, and where it starts."""
        if "sendInitialEvents" in query or "resourceVersionMatch" in query:
            raise _invalid("sendInitialEvents and resourceVersionMatch are forbidden for this list")
        if "continue" not in query:
            return self.storage.version, 0
        if query.get("resourceVersion"):
            raise Refusal(400, "BadRequest", "specifying resource version is not allowed when using continue")
        token = json.loads(base64.urlsafe_b64decode(query["continue"]))
        if (
            self.pages_expire
            or token["v"] < self.storage.forgotten
            or (resource, token["v"]) not in self._snapshots
        ):
            raise Refusal(410, "Expired", "The provided continue parameter is too old")
        return token["v"], token["start"]

    # ---- watches ----

    async def _watch(self, query: dict[str, str], resource: str, connection: Connection) -> None:
        streams = self._streams(query)
        given = query.get("resourceVersion", "")
        position = int(given or 0)
        watch = _Watch(self.storage, resource, self._selected(query), position)
        if position and position < self.storage.forgotten:
            gone = Refusal(410, "Expired", f"too old resource version: {given} ({self.storage.forgotten})")
            if self.gone_as_status:
                raise gone
            watch.say({"type": "ERROR", "object": gone.status})
            watch.finish()
        elif position and self.watch_error is not None:
            watch.say({"type": "ERROR", "object": self.watch_error.status})
            watch.finish()
        elif position:
            for change in self.storage.since(position, resource):
                watch.note(change)
        else:
            watch.begin(with_bookmark=streams)
        if self.watch_list == "ignores" and "sendInitialEvents" in query:
            watch.finish()
        await self._run(watch, connection, query)

    def _streams(self, query: dict[str, str]) -> bool:
        if "sendInitialEvents" not in query:
            if "resourceVersionMatch" in query:
                raise _invalid("resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch")
            return False
        if self.watch_list == "refuses":
            raise _invalid("sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch")
        if query.get("resourceVersionMatch") != "NotOlderThan":
            raise _invalid("resourceVersionMatch: Forbidden: must be NotOlderThan beside sendInitialEvents")
        return self.watch_list == "yes" and query.get("allowWatchBookmarks") == "true"

    async def _run(self, watch: "_Watch", connection: Connection, query: dict[str, str]) -> None:
        bookmarks = query.get("allowWatchBookmarks") == "true"
        watch.bookmarks_go_back = self.bookmarks_go_back
        deadline = asyncio.get_running_loop().call_later(int(query["timeoutSeconds"]), watch.finish)
        self._watches.add(watch)
        connection.cut_after = self.cuts.pop(0) if self.cuts else None
        try:
            await connection.begin()
            while lines := await watch.lines(self.bookmark_interval_s if bookmarks else None):
                await connection.lines(lines)
            await connection.end()
        finally:
            deadline.cancel()
            watch.close()
            self._watches.discard(watch)


def replace(path: Path, text: str) -> None:
    """Write a file as kubelet does: whoever reads it sees the old text or the new one."""
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.replace(path)


def _invalid(message: str) -> Refusal:
    return Refusal(422, "Invalid", f'ListOptions.meta.k8s.io "" is invalid: {message}')


class _Watch:
    """What one watcher is to be told."""

    def __init__(
        self, storage: Storage, resource: str, selected: Callable[[Object | None], bool], position: int
    ) -> None:
        self.bookmarks_go_back = False
        self._storage = storage
        self.resource = resource
        self._selected = selected
        self._position = position
        self._said: list[bytes] = []
        self._finished = False
        self._wake = asyncio.Event()
        self.close = storage.listen(self.note)

    def say(self, event: dict[str, Any]) -> None:
        self.say_encoded([msgspec.json.encode(event)])

    def say_encoded(self, lines: list[bytes]) -> None:
        self._said += lines
        self._wake.set()

    def finish(self) -> None:
        """End after what has been said."""
        self._finished = True
        self._wake.set()

    def begin(self, *, with_bookmark: bool) -> None:
        """All that there is, as if it were new."""
        for thing in filter(self._selected, self._storage.of(self.resource)):
            self.say({"type": "ADDED", "object": thing})
        if with_bookmark:
            self._bookmark(END_OF_LIST)

    def bookmark(self) -> None:
        if self._position <= self._storage.version or self.bookmarks_go_back:
            self._bookmark({})

    def note(self, change: Change) -> None:
        """A real watcher, too, hears only of versions above the one it asked for."""
        if change.resource != self.resource or change.version <= self._position:
            return
        was, is_ = self._selected(change.before), self._selected(change.after)
        if is_:
            self.say({"type": "MODIFIED" if was else "ADDED", "object": change.after})
        elif was and change.before is not None:
            metadata = change.before["metadata"] | {"resourceVersion": str(change.version)}
            self.say({"type": "DELETED", "object": change.before | {"metadata": metadata}})

    async def lines(self, bookmark_interval_s: float | None) -> list[bytes]:
        """What there is to say next; empty at the end."""
        while not self._said and not self._finished:
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(bookmark_interval_s):  # wait_for of 3.11 can miss a cancel
                    await self._wake.wait()
            if not self._wake.is_set():
                self.bookmark()
        said, self._said = self._said, []
        return said

    def _bookmark(self, annotations: dict[str, str]) -> None:
        kind, version = next(
            (kind, version) for name, version, kind in PATHS.values() if name == self.resource
        )
        metadata: dict[str, Any] = {"resourceVersion": str(self._storage.version), "creationTimestamp": None}
        if annotations:
            metadata["annotations"] = annotations
        thing = {"kind": kind, "apiVersion": version, "metadata": metadata}
        self.say({"type": "BOOKMARK", "object": thing})


class RunningApiServer:
    """An `ApiServer` in a thread of its own. `call` does something there, and returns what it gives."""

    def __init__(self, server: ApiServer, loop: asyncio.AbstractEventLoop) -> None:
        self.server = server
        self._loop = loop

    def call(self, what: Callable[..., T], *arguments: Any) -> T:
        """`running.call(running.server.drop_all)`."""

        async def there() -> T:
            return what(*arguments)

        return asyncio.run_coroutine_threadsafe(there(), self._loop).result(20)

    def put(self, *things: Object) -> None:
        """Create or replace objects."""
        for thing in things:
            self.call(self.server.storage.put, thing)

    def delete(self, thing: Object) -> None:
        """Delete the object of this kind and name."""
        self.call(self.server.storage.delete, thing)

    def stop(self) -> None:
        """The server goes away; what it has stays."""
        asyncio.run_coroutine_threadsafe(self.server.stop(), self._loop).result(20)

    def start(self, listening: socket.socket | None = None) -> None:
        """It comes back, on the same port. `listening` may be a socket in a network namespace."""
        asyncio.run_coroutine_threadsafe(self.server.start(listening), self._loop).result(20)


@contextmanager
def running_api_server(directory: Path, listening: socket.socket | None = None) -> Iterator[RunningApiServer]:
    """A stand-in in a thread. `listening` may be a socket in a network namespace."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="stand-in API server", daemon=True)
    thread.start()
    server = ApiServer(directory)
    try:
        asyncio.run_coroutine_threadsafe(server.start(listening), loop).result(20)
        running = RunningApiServer(server, loop)
        yield running
        running.stop()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()
