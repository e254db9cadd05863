"""The ports on which load balancers ask whether this node has endpoints of a Service.

Owns `spec.healthCheckNodePort`: opening and closing it as Services with externalTrafficPolicy
Local come and go, and what is answered there. Status, headers and body are kube-proxy's to the
letter (1.36, pkg/proxy/healthcheck/service_health.go), which answers any path and method.
Refuses to fail: a port that cannot be had is told as a problem of the Service.
"""

import errno
import socket
from collections.abc import Callable, Iterable, Mapping

from aiohttp import web

from uproxy.admin.address import words_of
from uproxy.admin.listening import HttpServer
from uproxy.kit.guests import Budget, Guests, Limits
from uproxy.model.frontend import Changes, DesiredServicePort, FrontendKind
from uproxy.model.names import IPAddress, NamespacedName, Vip
from uproxy.state.store import Store

_BACKLOG = 128
_LIMITS = Limits(128, 16)
"""Of all ports together: a load balancer asks each from a few addresses, every few seconds."""
_NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)

Report = Callable[[NamespacedName, int, str], None]
"""Told of a Service, its port, and why that cannot be opened; once for each new reason."""


def health_body(key: NamespacedName, local_endpoints: int, healthy: bool) -> str:
    """What kube-proxy answers, blank for blank."""
    return (
        f'{{\n\t"service": {{\n\t\t"namespace": "{key.namespace}",\n\t\t"name": "{key.name}"\n\t}},\n'
        f'\t"localEndpoints": {local_endpoints},\n'
        f'\t"serviceProxyHealthy": {str(healthy).lower()}\n}}'
    )


class ServiceHealth:
    """A target: one HTTP server for every Service that has a health check port.

    They listen where NodePorts are served. `healthy` says whether the proxy itself is.
    """

    def __init__(
        self,
        store: Store,
        healthy: Callable[[], bool],
        report: Report,
        budget: Budget | None = None,
    ) -> None:
        self.guests = Guests("service-health", _LIMITS, budget)
        self._store = store
        self._healthy = healthy
        self._report = report
        self._open: dict[NamespacedName, tuple[int, HttpServer]] = {}
        self._troubles: dict[NamespacedName, str] = {}

    async def make(self, changes: Changes) -> Mapping[Vip, str]:
        """Open the ports that are missing, and close those that nobody has a use for.

        Closing comes first: a port may have moved to another Service.
        """
        wanted = self._store.health_checks
        for key in [key for key, (port, _) in self._open.items() if wanted.get(key) != port]:
            await self._open.pop(key)[1].close()
        troubles = {}
        if missing := [key for key in wanted if key not in self._open]:
            ips = self._store.node_port_ips
            for key in missing:
                if why := self._start(key, wanted[key], ips):
                    troubles[key] = f"health check port {wanted[key]}: {why}"
                    if self._troubles.get(key) != troubles[key]:
                        self._report(key, wanted[key], why)
        self._troubles = troubles
        return dict(_problems(changes.updated, troubles))

    def _start(self, key: NamespacedName, port: int, ips: Iterable[IPAddress]) -> str:
        """Open one port on every address, or on none; returns why not."""

        async def answer(_request: web.BaseRequest) -> web.Response:
            return self._answer(key)

        try:
            self._open[key] = (port, HttpServer(_listeners(ips, port), answer, self.guests))
        except OSError as error:
            return words_of(error)
        return ""

    def _answer(self, key: NamespacedName) -> web.Response:
        count, healthy = self._store.local_ready_endpoints(key), self._healthy()
        return web.Response(
            status=200 if count and healthy else 503,
            body=health_body(key, count, healthy).encode(),
            content_type="application/json",
            headers={"X-Load-Balancing-Endpoint-Weight": str(count)},
        )

    async def retire(self, _changes: Changes) -> None:
        """Done by `make`."""

    async def prune(self) -> None:
        """Ports do not outlive a process."""

    async def close(self) -> None:
        """Close every port."""
        while self._open:
            await self._open.popitem()[1][1].close()


def _problems(
    updated: Iterable[DesiredServicePort], troubles: Mapping[NamespacedName, str]
) -> Iterable[tuple[Vip, str]]:
    """Each trouble at one address from outside: those are what the health check is asked for."""
    for desired in updated:
        why = troubles.get(desired.name.service)
        outside = [f.vip for f in desired.frontends if f.kind is not FrontendKind.CLUSTER_IP]
        if why and outside:
            yield outside[0], why


def _listeners(ips: Iterable[IPAddress], port: int) -> list[socket.socket]:
    """Listening sockets. Raises OSError, with none of them left open, when one cannot be had.

    A kernel without IPv6 goes without.
    """
    opened: list[socket.socket] = []
    for ip in ips:
        try:
            opened.append(_listener(ip, port))
        except OSError as error:
            if ip.is_unspecified and error.errno in _NO_SUCH_FAMILY:
                continue
            for listener in opened:
                listener.close()
            raise
    return opened


def _listener(ip: IPAddress, port: int) -> socket.socket:
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    return socket.create_server((str(ip), port), family=family, backlog=_BACKLOG)
