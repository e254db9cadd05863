"""One running proxy: every part built, started in order, and taken down in the reverse order."""

import asyncio
import logging
from collections.abc import Awaitable
from functools import partial
from math import inf
from time import monotonic
from typing import Any

from uproxy import __version__
from uproxy.admin import events
from uproxy.admin.http import CannotServe, HttpServers, Pages, start_http
from uproxy.admin.metrics import About
from uproxy.admin.service_health import ServiceHealth
from uproxy.app import handoff
from uproxy.app.carriers import (
    needs_port_route,
    new_dataplane,
    own_routes,
    redirect_ports,
    routes_beside_rules,
)
from uproxy.app.node_news import NodeNews
from uproxy.app.plan import cluster_dns, new_store, wall, wall_s
from uproxy.app.sources import Emit, HostLookups, Sources
from uproxy.app.succession import Turn
from uproxy.dataplane.proxy import Dataplane
from uproxy.errors import UproxyError
from uproxy.handoff.choice import NO_HANDOFF, Possible
from uproxy.handoff.target import KernelPaths
from uproxy.kit import endings, heap
from uproxy.kit.guests import is_of_a_guest
from uproxy.kit.orphans import look_after_orphans
from uproxy.kit.tasks import Tasks
from uproxy.model.names import NamespacedName
from uproxy.reconcile.loop import ReconcileLoop
from uproxy.reconcile.target import Target
from uproxy.settings import Settings
from uproxy.sources import local_addresses
from uproxy.sources.config_file import ConfigFile
from uproxy.sources.resolve import Resolver
from uproxy.state.addresses import AddressPlan
from uproxy.steering.bridges import BridgeAnswers
from uproxy.steering.cleanup import remove_rules, remove_tproxy
from uproxy.steering.lo_addresses import LoAddresses
from uproxy.steering.policy_routes import PolicyRoutes
from uproxy.steering.port_routes import PortRoutes, remove_port_routes
from uproxy.steering.probe import Capture, Choice, Mechanism
from uproxy.steering.routes import LocalRoutes
from uproxy.steering.target import SteeringRules, steering_rules, tproxy_rules

_OF_THE_KERNEL = (SteeringRules, LocalRoutes, PortRoutes, PolicyRoutes, BridgeAnswers, KernelPaths)
"""Targets whose work outlives a process, and is adopted by the next."""
_TRY_LOCK_S = 0.1
"""For others who try at the same moment to let go."""
_HANDSHAKE_S = 1.0
"""How long a connection may still be on its way to the process that was there before."""

log = logging.getLogger("uproxy")


class Proxy:
    """One running proxy."""

    def __init__(
        self,
        settings: Settings,
        choice: Choice,
        plan: AddressPlan,
        sources: Sources,
        emit: Emit,
        *,
        possible: Possible = NO_HANDOFF,
        turn: Turn | None = None,
    ) -> None:
        """`turn` is None where no network is programmed."""
        loop = asyncio.get_running_loop()
        self.settings = settings
        self.choice = choice
        self.plan = plan
        self.store = new_store(settings, plan)
        self.stop = asyncio.Event()
        """Set it to end `run` in good order."""
        self._sources = sources
        self._turn = turn
        self._is_others = turn is not None and not turn.is_ours
        """Whether what the kernel has is another process's to remove."""
        self._servers: HttpServers | None = None
        self._why_stopped = ""
        self._follows = False
        self._tasks = Tasks()
        loop.set_exception_handler(self._crashed)
        self._bridges = BridgeAnswers()
        self.dataplane = new_dataplane(loop, settings, choice, self._bridges)
        self._possible = possible
        self.paths = handoff.kernel_paths(possible, choice.capture, self.dataplane, settings.threads)
        self.dns = emit.names = cluster_dns(settings, plan, self.dataplane.context.descriptors)
        self._health_checks = self._service_health()
        self.targets = self._build_targets(Resolver(emit))
        names = sources.names
        if settings.node_port_addresses:
            names |= {local_addresses.NAME}
        self.reconcile = ReconcileLoop(self.store, self.targets, names, monotonic, wall_s)
        emit.target = self.reconcile
        about = About(self.dataplane.relay.name, choice.capture, choice.mechanism)
        self.pages = Pages(
            self.store,
            self.dataplane,
            self.reconcile,
            about,
            settings,
            followed=sources.followed,
            paths=self.paths,
            dns=self.dns.stats if self.dns is not None else None,
            guests=(self._health_checks.guests, *([self.dns.guests] if self.dns is not None else [])),
        )
        counted = self.pages.outcomes.events
        post = sources.post
        self._events = events.Events(post, settings.node_name, wall, counted) if post is not None else None

    @property
    def metrics_address(self) -> str:
        """Where metrics are served, once they are."""
        return str(self._servers.metrics_address) if self._servers is not None else ""

    def _build_targets(self, resolver: Resolver) -> list[Target]:
        """In the order in which traffic needs them: route, socket, rule."""
        targets: list[Target] = [HostLookups(self.store, resolver)]
        if self.settings.from_cluster:
            targets.append(NodeNews(self.store, self.settings.node_name))
        if self.choice.capture is Capture.REDIRECT:
            ports = redirect_ports(self.dataplane)
            targets += [LocalRoutes(routes_beside_rules), PortRoutes(needs_port_route), self.dataplane]
            targets.append(steering_rules(self.choice.mechanism, ports))
        elif self.choice.capture is Capture.TPROXY:
            ports = redirect_ports(self.dataplane)
            targets += [LocalRoutes(routes_beside_rules), PolicyRoutes(), self.dataplane]
            targets += [tproxy_rules(ports), self._bridges]
        elif self.choice.mechanism is Mechanism.LOCAL_ROUTES:
            targets += [LocalRoutes(own_routes), self.dataplane]
        elif self.choice.mechanism is Mechanism.LO_ADDRESSES:
            targets += [LoAddresses(own_routes), self.dataplane]
        else:
            targets.append(self.dataplane)
        # What the kernel takes over falls back to all of the above.
        targets += [self.paths] if self.paths is not None else []
        # Last: a name appears once everything that it leads to is programmed.
        return [*targets, self._health_checks, *([self.dns] if self.dns is not None else [])]

    def _service_health(self) -> ServiceHealth:
        def healthy() -> bool:
            return self.pages.health.serves(monotonic())

        def report(service: NamespacedName, port: int, why: str) -> None:
            self._tell(events.service_health_failed(self.settings.node_name, service, port, why))

        return ServiceHealth(self.store, healthy, report, self.dataplane.context.descriptors)

    def _tell(self, notice: events.Notice) -> None:
        if self._events is not None:
            self._events.tell(notice)

    async def run(self, config: ConfigFile | None = None) -> None:
        """Serve until `stop` is set or a signal comes, then leave nothing behind.

        Raises UproxyError when it cannot start, or when `config` has changed, for whoever
        started it to start it again; and whatever escaped as a bug.
        """
        log.info("uproxy %s, capture %s by %s: %s", __version__, *_words(self.choice))
        log.info("relay: %s", self.dataplane.relay.name)
        handoff.say(self.settings, self._possible)
        if self._sources.ready is not None:
            await self._sources.ready()
        # Until here nothing was programmed, and a signal ends the process at once.
        loop = asyncio.get_running_loop()
        with endings.telling(partial(loop.call_soon_threadsafe, self.stop.set)):
            await self._run(config)
        if self._why_stopped:
            raise UproxyError(self._why_stopped)

    async def _run(self, config: ConfigFile | None) -> None:
        look_after_orphans(self._tasks)
        if self._events is not None:
            self._tasks.start("events", self._events.run())
        if self._turn is not None and not self._turn.is_ours and not await self._turn_comes(self._turn):
            await self._take_down()
            return
        self._servers = await self._start_http()
        self._tell(events.started(self.settings.node_name))
        try:
            await self._remove_rivals()
            if self.dns is not None:
                await self.dns.start(self._tasks)
            self._follow()
            if self.paths is not None:
                self._tasks.start("handoff", self.paths.run())
            for target in self.targets:
                if isinstance(target, (SteeringRules, LocalRoutes)):
                    self._tasks.start(type(target).__name__, target.run())
            self._tasks.start("announce", self._announce())
            if config is not None:
                self._tasks.start("config", self._watch(config))
            await self._until_stopped()
            if await self._is_succeeded():
                self._is_others = True
            await self._drain()
        finally:
            await self._take_down()

    def _follow(self) -> None:
        """Begin with the sources and with programming, or go on with it."""
        self.reconcile.resume()
        if self._follows:
            return
        self._follows = True
        self._tasks.start("reconcile", self.reconcile.run())
        for name, run in self._sources.tasks.items():
            self._tasks.start(name, run())
        if self.settings.node_port_addresses:
            self._tasks.start(local_addresses.NAME, local_addresses.follow(self.reconcile.emit))

    # ---- one process after another ----

    async def _turn_comes(self, turn: Turn) -> bool:
        """Get to know all objects, and wait for whoever serves now to be told to stop; returns False when
        this process is told first."""
        log.info("another uproxy serves this machine, and is to be followed")
        self._follow()
        self.reconcile.hold()
        coming = asyncio.ensure_future(turn.comes(self.reconcile.prepared))
        try:
            await self._until_stopped(coming)
        finally:
            coming.cancel()
        if not turn.is_ours:
            return False
        self._is_others = False
        if turn.follows:
            self.dataplane.begin_overlap()
        return True

    async def _is_succeeded(self) -> bool:
        """Let another process go on here, if one waits to; returns whether it does.

        It finds rules and routes as they are, and nobody that changes them. Until it serves, and for as
        long as a handshake may take, this process takes connections as before.
        """
        if self._turn is None:
            return False
        successor = await self._turn.successor()
        if successor is None:
            return False
        log.info("another uproxy goes on here")
        await self.reconcile.at_rest()
        await self._tasks.stop()
        await self._give_up_addresses()
        if not await successor.takes_over():
            log.warning("the other uproxy does not serve: ending as if there were none")
            return not self._turn.try_lock(_TRY_LOCK_S)
        await asyncio.sleep(_HANDSHAKE_S)
        return True

    async def _give_up_addresses(self) -> None:
        """Of everything that listens, but for the data plane, whose addresses are shared meanwhile."""
        self.dataplane.share_addresses(on=True)
        stay = (*_OF_THE_KERNEL, Dataplane)
        gone = [target for target in self.targets if not isinstance(target, stay)]
        self.targets = [target for target in self.targets if isinstance(target, stay)]
        for target in reversed(gone):
            await target.close()
        if self._servers is not None:
            await self._servers.close()
            self._servers = None

    async def _start_http(self) -> HttpServers:
        try:
            return await start_http(self.pages, self.settings.metrics_address, self.settings.healthz_address)
        except CannotServe as error:
            failed = events.metrics_failed if error.what == "metrics" else events.health_failed
            self._tell(failed(self.settings.node_name, str(error)))
            if self._events is not None:
                await self._events.flush()
            raise

    async def _watch(self, config: ConfigFile) -> None:
        await config.changed()
        self._why_stopped = f"{config.path} has changed: ended, to be started again with what it says now"
        self.stop.set()

    async def _remove_rivals(self) -> None:
        """Remove what an earlier run with another capture or handoff left, and would be in the way."""
        if self.choice.capture is Capture.BIND and self.choice.mechanism is not Mechanism.LOOPBACK:
            await remove_rules()
        if self.choice.mechanism is not Mechanism.LOOPBACK:
            await handoff.remove_others(self._possible)
        if self.choice.mechanism is Mechanism.LOOPBACK:
            return
        if self.choice.capture is not Capture.REDIRECT:
            await remove_port_routes()
        if self.choice.capture is not Capture.TPROXY:
            await remove_tproxy()

    async def _until_stopped(self, *others: asyncio.Future[None]) -> None:
        """Or until one of `others` is done. Raises what escaped from a task as a bug."""
        stopped = asyncio.ensure_future(self.stop.wait())
        awaited: set[asyncio.Future[Any]] = {stopped, self._tasks.failed, *others}
        await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if self._tasks.failed.done():
            raise self._tasks.failed.result()

    async def _announce(self) -> None:
        await self.reconcile.programmed.wait()
        if self._turn is not None and self._turn.follows:
            await self._turn.serves()
            self.dataplane.share_addresses(on=False)
        ports = self.store.desired.values()
        skipped = self._sources.skipped()
        log.info(
            "ready: %d Service ports at %d addresses, %d without endpoints; %d other objects skipped",
            len(ports),
            sum(len(desired.frontends) for desired in ports),
            sum(1 for desired in ports if not any(desired.usable.values())),
            skipped,
        )
        if any(desired.port < self.plan.first_port for desired in ports):
            log.info(
                "ports below %d need root or the sysctl net.ipv4.ip_unprivileged_port_start: "
                "80 is served as %d, and so on",
                self.plan.first_port,
                self.plan.port(80),
            )
        heap.settle()

    async def _drain(self) -> None:
        """Stop accepting, and let open connections end; a second signal cuts them short."""
        self.pages.health.draining = True
        self.stop.clear()
        self.dataplane.stop_accepting()
        open_count = self.dataplane.relay.open_connections
        log.info("stopping: %d connections are open", open_count)
        if open_count or self._own_paths is not None or (self.dns is not None and self.dns.waiting):
            drain = asyncio.ensure_future(self._drained())
            again = asyncio.ensure_future(self.stop.wait())
            await asyncio.wait((drain, again), return_when=asyncio.FIRST_COMPLETED)
            drain.cancel()
            again.cancel()
            log.info("stopped: %d connections had to be cut", self.dataplane.relay.open_connections)

    @property
    def _own_paths(self) -> KernelPaths | None:
        """What is handed over, where nobody else goes on with it."""
        return None if self._is_others else self.paths

    async def _drained(self) -> None:
        # Nobody waits for the end of a process that another goes on for, but whoever told it to stop.
        timeout_s = inf if self._is_others else self.settings.drain_timeout_s
        leaving: list[Awaitable[object]] = []
        leaving += [self._own_paths.leave(timeout_s)] if self._own_paths is not None else []
        leaving += [self.dns.drain(timeout_s)] if self.dns is not None else []
        await asyncio.gather(self.dataplane.drain(timeout_s), *leaving)

    async def _take_down(self) -> None:
        """Undo everything, in the reverse order, whatever fails on the way."""
        await self._tasks.stop()
        self.dataplane.cut_connections()
        for target in reversed(self.targets):
            if self._is_others and isinstance(target, _OF_THE_KERNEL):
                continue
            try:
                await target.close()
            except UproxyError as error:
                log.error("%s; `uproxy cleanup` removes what is left", error)  # noqa: TRY400
        if self._servers is not None:
            await self._servers.close()
        self.dataplane.context.close()

    def _crashed(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception escaped from a callback: a bug, which ends the process in good order. What happens
        on one connection to one of our servers is not."""
        if is_of_a_guest(context):
            return
        error = context.get("exception") or UproxyError(context["message"])
        if not self._tasks.failed.done():
            self._tasks.failed.set_result(error)


def _words(choice: Choice) -> tuple[str, str, str]:
    return choice.capture, choice.mechanism, choice.reason
