"""The proxy's HTTP addresses: metrics and the services table on one, health on the other.

Owns paths, content types and addresses. What is said is written elsewhere in this package, and how it is
served in `listening`. Paths and addresses are kube-proxy's, `/services` is ours.
"""

import socket
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import msgspec
from aiohttp import web

from uproxy.admin.address import Address, words_of
from uproxy.admin.cluster_metrics import Followed, disconnected_s
from uproxy.admin.exposition import CONTENT_TYPE
from uproxy.admin.health import HealthState, node_eligible
from uproxy.admin.kube_proxy_metrics import Outcomes
from uproxy.admin.listening import Handler, HttpServer
from uproxy.admin.metrics import About, Metrics
from uproxy.admin.pacing import slices
from uproxy.admin.rows import ServiceRow
from uproxy.admin.statusz import statusz
from uproxy.admin.view import service_rows
from uproxy.dataplane.proxy import Dataplane
from uproxy.dns.stats import DnsStats
from uproxy.errors import UproxyError
from uproxy.handoff.target import KernelPaths
from uproxy.kit.guests import Guests, Limits
from uproxy.reconcile.loop import ReconcileLoop
from uproxy.settings import Settings
from uproxy.state.store import Store

_LIMITS = Limits(64, 16)
_METHODS = ("GET", "HEAD")


class Pages:
    """What the HTTP servers answer, path by path."""

    def __init__(
        self,
        store: Store,
        dataplane: Dataplane,
        loop: ReconcileLoop,
        about: About,
        settings: Settings,
        *,
        followed: Followed = tuple,
        paths: KernelPaths | None = None,
        dns: DnsStats | None = None,
        guests: Iterable[Guests] = (),
    ) -> None:
        """`guests` are those of other servers, for the metrics."""
        self._paths = paths
        self.health = HealthState(loop)
        self._followed = followed
        self._store = store
        self._dataplane = dataplane
        self._loop = loop
        self._settings = settings
        self._started_at = datetime.now(UTC)
        self.outcomes = Outcomes()
        budget = dataplane.context.descriptors
        self.metrics_guests = Guests("metrics", _LIMITS, budget)
        self.health_guests = Guests("health", _LIMITS, budget)
        self._metrics = Metrics(
            store,
            dataplane,
            loop,
            about,
            self.outcomes,
            followed=followed,
            paths=paths,
            dns=dns,
            guests=(self.metrics_guests, self.health_guests, *guests),
        )

    def of_metrics_address(self) -> dict[str, Handler]:
        """Pages by path, for the metrics address."""
        return {
            "/metrics": self._serve_metrics,
            "/healthz": _serve_ok,
            "/livez": self._serve_livez,
            "/services": self._serve_services,
            "/proxyMode": _serve_proxy_mode,
            "/configz": self._serve_configz,
            "/statusz": self._serve_statusz,
        }

    def of_health_address(self) -> dict[str, Handler]:
        """Pages by path, for the health address."""
        return {"/healthz": self._serve_healthz, "/livez": self._serve_livez}

    async def _serve_metrics(self, _request: web.BaseRequest) -> web.Response:
        return web.Response(body=await self._metrics.scrape(), headers={"Content-Type": CONTENT_TYPE})

    async def _serve_services(self, _request: web.BaseRequest) -> web.Response:
        rows: list[ServiceRow] = []
        async for some in slices(service_rows(self._store, self._dataplane, self._loop, self._paths)):
            rows += some
        return _json(200, msgspec.json.encode(rows))

    async def _serve_configz(self, _request: web.BaseRequest) -> web.Response:
        settings = msgspec.to_builtins(self._settings, enc_hook=str)
        return _json(200, msgspec.json.encode({"uproxy": settings}))

    async def _serve_statusz(self, _request: web.BaseRequest) -> web.Response:
        paths = sorted(self.of_metrics_address())
        return web.Response(text=statusz(self._started_at, datetime.now(UTC), paths))

    async def _serve_healthz(self, _request: web.BaseRequest) -> web.Response:
        eligible = node_eligible(self._store.node, self._settings.from_cluster)
        away_s = disconnected_s(self._followed(), self._dataplane.context.now())
        answer = self.health.healthz(*self._moment(), eligible, away_s)
        self.outcomes.healthz[answer.status] += 1
        return _json(*answer)

    async def _serve_livez(self, _request: web.BaseRequest) -> web.Response:
        answer = self.health.livez(*self._moment())
        self.outcomes.livez[answer.status] += 1
        return _json(*answer)

    def _moment(self) -> tuple[float, datetime]:
        return self._dataplane.context.now(), datetime.now(UTC)


async def _serve_ok(_request: web.BaseRequest) -> web.Response:
    return web.Response(text="ok")


async def _serve_proxy_mode(_request: web.BaseRequest) -> web.Response:
    return web.Response(text="userspace")  # what kube-proxy called a relay, while it had one


def _json(status: int, body: bytes) -> web.Response:
    return web.Response(status=status, body=body, content_type="application/json")


def _by_path(handlers: Mapping[str, Handler]) -> Handler:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        handler = handlers.get(request.path)
        if handler is None:
            raise web.HTTPNotFound
        if request.method not in _METHODS:
            raise web.HTTPMethodNotAllowed(request.method, _METHODS)
        return await handler(request)

    return answer


class CannotServe(UproxyError):
    """An address cannot be bound. `what` says what should have been served there."""

    def __init__(self, what: str, address: Address, reason: str) -> None:
        super().__init__(f"cannot serve {what} on {address}: {reason}")
        self.what = what


class HttpServers:
    """The servers that run, and where they listen."""

    def __init__(self) -> None:
        self.metrics_address = self.health_address = Address("", 0)
        """Where the servers really listen, once they do."""
        self._servers: list[HttpServer] = []

    async def serve(
        self, what: str, handlers: Mapping[str, Handler], address: Address, guests: Guests
    ) -> Address:
        """Serve on `address`; returns where that is when the port was 0.

        Raises CannotServe when it cannot be bound.
        """
        try:
            family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
            listener = socket.create_server(address, family=family)
            server = HttpServer((listener,), _by_path(handlers), guests)
        except OSError as error:
            raise CannotServe(what, address, words_of(error)) from error
        self._servers.append(server)
        return Address(*server.doors[0].address)

    async def close(self) -> None:
        """Stop listening, and finish the answers under way."""
        for server in self._servers:
            await server.close()


async def start_http(pages: Pages, metrics: tuple[str, int], health: tuple[str, int]) -> HttpServers:
    """Serve metrics and health, on one server when their addresses are the same.

    On that one `/healthz` is the health address's. Raises CannotServe when an address cannot
    be bound; nothing is left listening then.
    """
    servers = HttpServers()
    at_metrics, at_health = pages.of_metrics_address(), pages.of_health_address()
    try:
        if metrics == health:
            both = await servers.serve(
                "metrics and health", at_metrics | at_health, Address(*metrics), pages.metrics_guests
            )
            servers.metrics_address = servers.health_address = both
        else:
            servers.metrics_address = await servers.serve(
                "metrics", at_metrics, Address(*metrics), pages.metrics_guests
            )
            servers.health_address = await servers.serve(
                "health", at_health, Address(*health), pages.health_guests
            )
    except UproxyError:
        await servers.close()
        raise
    return servers
