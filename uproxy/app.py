"""The composition root: builds every part of a running proxy, and takes it down in order.

The only module that introduces sources, data plane and steering to each other.
"""

import asyncio
import gc
import logging
import signal
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from time import monotonic
from typing import Any

from uproxy import __version__
from uproxy.admin import events
from uproxy.admin.cluster_metrics import Statuses
from uproxy.admin.http import CannotServe, HttpServers, Pages, start_http
from uproxy.admin.metrics import About
from uproxy.admin.service_health import ServiceHealth
from uproxy.dataplane.context import Context, Timeouts
from uproxy.dataplane.descriptors import Descriptors, descriptor_budget
from uproxy.dataplane.native_relay import NativeRelay, engine_or_reason
from uproxy.dataplane.proxy import Dataplane
from uproxy.dataplane.python_relay import PythonRelay
from uproxy.dataplane.reactor import Reactor
from uproxy.dataplane.relay import Ended, Relay
from uproxy.dataplane.ways_back import WaysBack
from uproxy.errors import UproxyError
from uproxy.kit.tasks import Tasks
from uproxy.model.events import Event
from uproxy.model.faults import BadInput, Fault
from uproxy.model.frontend import Changes, DesiredServicePort, Frontend, FrontendKind
from uproxy.model.names import IPNetwork, NamespacedName, Protocol, Vip
from uproxy.model.service import Service
from uproxy.reconcile.loop import ReconcileLoop
from uproxy.reconcile.target import Target
from uproxy.settings import LOOPBACK_SERVICE_CIDR, SERVICE_CIDR, LocalMode, Settings
from uproxy.sources import files, flags, local_addresses
from uproxy.sources.config_file import ConfigFile
from uproxy.sources.resolve import Resolver
from uproxy.state.addresses import AddressPlan
from uproxy.state.node_ports import NodePortPlan
from uproxy.state.store import Store
from uproxy.steering.bridges import BridgeAnswers
from uproxy.steering.cleanup import remove_rules, remove_tproxy
from uproxy.steering.lock import SteeringLock
from uproxy.steering.policy_routes import PolicyRoutes
from uproxy.steering.probe import Capture, Choice, Mechanism
from uproxy.steering.routes import LocalRoutes
from uproxy.steering.rules import PROXY_MARK, RedirectPorts
from uproxy.steering.target import steering_rules, tproxy_rules

_DIALS_A_CONNECTION = 4
"""How many endpoints may time out before a connection is given up; refusals cost no time."""
_FLOWS_SHARE = 4
_FLOWS_MAX = 16_384
"""UDP flows may take a quarter of the descriptors, and no more than this many."""

log = logging.getLogger("uproxy")
access = logging.getLogger("uproxy.access")


def address_plan(cidr: IPNetwork | None, choice: Choice, first_port: int) -> AddressPlan:
    """Where and on which ports Services are served, under the capture chosen."""
    binds = choice.capture is Capture.BIND
    network = cidr or ip_network(LOOPBACK_SERVICE_CIDR if binds else SERVICE_CIDR)
    loopback_only = choice.mechanism is Mechanism.LOOPBACK
    return AddressPlan(network, loopback_only, first_port if binds else 0)


def new_store(settings: Settings, plan: AddressPlan) -> Store:
    """An empty one, which knows what the settings say of the node and its Pods."""
    own_cidrs = settings.detect_local_mode is LocalMode.NODE_CIDR
    return Store(
        plan,
        settings.node_name if settings.is_one_of_many else None,
        () if own_cidrs else settings.cluster_cidrs,
        NodePortPlan(settings.node_port_addresses, settings.bind_address),
    )


@contextmanager
def steering(choice: Choice) -> Iterator[Choice]:
    """Hold the machine's network for as long as it is programmed; yields what can be done.

    While another uproxy holds it, binding is left with loopback addresses, which need no
    programming. Raises UproxyError where that is no way out.
    """
    if choice.mechanism is Mechanism.LOOPBACK:
        yield choice
        return
    try:
        lock = SteeringLock()
    except UproxyError as error:
        if choice.capture is not Capture.BIND:
            raise
        yield Choice(Capture.BIND, Mechanism.LOOPBACK, f"on loopback only, {error}")
        return
    try:
        yield choice
    finally:
        lock.release()


@dataclass(frozen=True, slots=True)
class Sources:
    """Where objects come from."""

    names: frozenset[str]
    """Whose first complete lists are awaited."""
    tasks: Mapping[str, Callable[[], Coroutine[Any, Any, None]]]
    """What has to run for as long as the proxy does."""
    skipped: Callable[[], int]
    """How many objects were of no use."""
    cluster: "Cluster | None" = None


@dataclass(frozen=True, slots=True)
class Cluster:
    """What else a cluster is good for."""

    post: events.Post
    """Creates Events."""
    statuses: Statuses
    close: Callable[[], Coroutine[Any, Any, None]]
    """Closes every connection to it, when nothing runs any more."""


@dataclass(frozen=True, slots=True)
class Manifests:
    """The sources of objects: files, and what `--endpoint` adds to them."""

    files: files.FileSource
    flags: flags.FlagSource

    def sources(self) -> Sources:
        """The same, for a running proxy."""
        names = frozenset((files.NAME, flags.NAME))
        return Sources(names, {files.NAME: self.files.run}, self._skipped)

    def _skipped(self) -> int:
        return self.files.skipped.total()


def load_manifests(settings: Settings, emit: Callable[[Event], None]) -> Manifests:
    """Read every manifest and flag once.

    Raises BadInput with all mistakes of all of them.
    """
    faults: list[Fault] = []
    given: tuple[flags.EndpointFlag, ...] = ()
    try:
        given = flags.parse_endpoints(settings.endpoints)
    except BadInput as error:
        faults += error.faults
    flag_source = flags.FlagSource(given, emit)

    def from_files(event: Event) -> None:
        emit(event)
        flag_source.observe(event)

    file_source = files.FileSource(settings.files, from_files)
    faults += file_source.load()
    services = [known for known in file_source.objects if isinstance(known, Service)]
    if not faults:  # a Service that could not be read is not a Service that is not there
        faults += flags.check_flags(given, services)
    if faults:
        raise BadInput(tuple(faults))
    return Manifests(file_source, flag_source)


def cluster_sources(settings: Settings, emit: Callable[[Event], None]) -> Sources:
    """The cluster that the settings lead to, and what `--endpoint` adds to it.

    Raises BadInput for flags that cannot be read. That their Services exist is known later.
    """
    from uproxy.sources.kubernetes.access import Access
    from uproxy.sources.kubernetes.source import NAME, ClusterSource

    flag_source = flags.FlagSource(flags.parse_endpoints(settings.endpoints), emit)

    def from_cluster(event: Event) -> None:
        emit(event)
        flag_source.observe(event)

    access_ = Access(settings.kubeconfig, settings.master)
    source = ClusterSource(from_cluster, access_, settings.node_name, proxy_name=settings.proxy_name)
    return Sources(
        frozenset((NAME, flags.NAME)),
        {NAME: source.run},
        lambda: sum(status.skipped for status in source.status),
        Cluster(source.create_event, lambda: source.status, source.close),
    )


class Emit:
    """Where sources send events; connected once there is somebody to take them."""

    def __init__(self) -> None:
        self.target: ReconcileLoop | None = None

    def __call__(self, event: Event) -> None:
        """Pass an event on. Before the connection there are none: sources only begin when they run."""
        if self.target is not None:
            self.target.emit(event)


class HostLookups:
    """A target: the names among the endpoints are looked up for as long as they are wanted."""

    def __init__(self, store: Store, resolver: Resolver) -> None:
        self._store = store
        self._resolver = resolver

    async def make(self, _changes: Changes) -> Mapping[Vip, str]:
        """Look up the names in use, and no others."""
        self._resolver.want(self._store.hosts)
        return {}

    async def retire(self, _changes: Changes) -> None:
        """Done by `make`."""

    async def prune(self) -> None:
        """Lookups do not outlive a process."""

    async def close(self) -> None:
        """Stop looking names up."""
        await self._resolver.close()


class Proxy:
    """One running proxy."""

    def __init__(
        self,
        settings: Settings,
        choice: Choice,
        plan: AddressPlan,
        sources: Sources,
        emit: Emit,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.settings = settings
        self.choice = choice
        self.plan = plan
        self.store = new_store(settings, plan)
        self.stop = asyncio.Event()
        """Set it to end `run` in good order."""
        self._sources = sources
        self._servers: HttpServers | None = None
        self._why_stopped = ""
        self._tasks = Tasks()
        loop.set_exception_handler(self._crashed)
        self._bridges = BridgeAnswers()
        self.dataplane = _dataplane(loop, settings, choice, self._bridges)
        self.targets = self._build_targets(Resolver(emit))
        names = sources.names
        if settings.node_port_addresses:
            names |= {local_addresses.NAME}
        self.reconcile = ReconcileLoop(self.store, self.targets, names, monotonic, _wall_s)
        emit.target = self.reconcile
        about = About(self.dataplane.relay.name, choice.capture, choice.mechanism)
        cluster = sources.cluster
        statuses: Statuses = cluster.statuses if cluster is not None else tuple
        self.pages = Pages(self.store, self.dataplane, self.reconcile, about, settings, cluster=statuses)
        self._events: events.Events | None = None
        if cluster is not None:
            counted = self.pages.outcomes.events
            self._events = events.Events(cluster.post, settings.node_name, _wall, counted)

    @property
    def metrics_address(self) -> str:
        """Where metrics are served, once they are."""
        return str(self._servers.metrics_address) if self._servers is not None else ""

    def _build_targets(self, resolver: Resolver) -> list[Target]:
        """In the order in which traffic needs them: route, socket, rule."""
        targets: list[Target] = [HostLookups(self.store, resolver)]
        if self.choice.capture is Capture.REDIRECT:
            ports = _redirect_ports(self.dataplane)
            targets += [LocalRoutes(_needs_route_beside_redirect), self.dataplane]
            targets.append(steering_rules(self.choice.mechanism, ports))
        elif self.choice.capture is Capture.TPROXY:
            ports = _redirect_ports(self.dataplane)
            routes = LocalRoutes(lambda _port, frontend: frontend.kind is FrontendKind.CLUSTER_IP)
            targets += [routes, PolicyRoutes(), self.dataplane, tproxy_rules(ports), self._bridges]
        elif self.choice.mechanism is Mechanism.LOCAL_ROUTES:
            targets += [LocalRoutes(_is_no_node_port), self.dataplane]
        else:
            targets.append(self.dataplane)
        return [*targets, self._service_health()]

    def _service_health(self) -> ServiceHealth:
        def healthy() -> bool:
            return self.pages.health.serves(monotonic())

        def report(service: NamespacedName, port: int, why: str) -> None:
            self._tell(events.service_health_failed(self.settings.node_name, service, port, why))

        return ServiceHealth(self.store, healthy, report)

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
        if self._events is not None:
            self._tasks.start("events", self._events.run())
        self._servers = await self._start_http()
        self._tell(events.started(self.settings.node_name))
        try:
            await self._remove_rivals()
            self._tasks.start("reconcile", self.reconcile.run())
            for name, run in self._sources.tasks.items():
                self._tasks.start(name, run())
            if self.settings.node_port_addresses:
                self._tasks.start(local_addresses.NAME, local_addresses.follow(self.reconcile.emit))
            self._tasks.start("announce", self._announce())
            if config is not None:
                self._tasks.start("config", self._watch(config))
            await self._until_stopped()
            await self._drain()
        finally:
            await self._take_down()
        if self._why_stopped:
            raise UproxyError(self._why_stopped)

    async def _start_http(self) -> HttpServers:
        try:
            return await start_http(self.pages, self.settings.metrics_address, self.settings.healthz_address)
        except CannotServe as error:
            failed = events.metrics_failed if error.what == "metrics" else events.health_failed
            self._tell(failed(self.settings.node_name, str(error)))
            if self._events is not None:
                await self._events.flush()
            await self._stop_tasks()
            raise

    async def _watch(self, config: ConfigFile) -> None:
        await config.changed()
        self._why_stopped = f"{config.path} has changed: ended, to be started again with what it says now"
        self.stop.set()

    async def _remove_rivals(self) -> None:
        """Remove what an earlier run with another capture left, and would be in the way."""
        if self.choice.mechanism is Mechanism.LOCAL_ROUTES:
            await remove_rules()
        if self.choice.mechanism is not Mechanism.LOOPBACK and self.choice.capture is not Capture.TPROXY:
            await remove_tproxy()

    async def _until_stopped(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop.set)
        stopped = loop.create_task(self.stop.wait())
        await asyncio.wait((stopped, self._tasks.failed), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if self._tasks.failed.done():
            raise self._tasks.failed.result()

    async def _announce(self) -> None:
        await self.reconcile.programmed.wait()
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
        # What the first list made stays: keep the collector from walking it again and again.
        gc.collect()
        gc.freeze()

    async def _drain(self) -> None:
        """Stop accepting, and let open connections end; a second signal cuts them short."""
        self.pages.health.draining = True
        self.stop.clear()
        self.dataplane.stop_accepting()
        open_count = self.dataplane.relay.open_connections
        log.info("stopping: %d connections are open", open_count)
        if open_count:
            drain = asyncio.ensure_future(self.dataplane.drain(self.settings.drain_timeout_s))
            again = asyncio.ensure_future(self.stop.wait())
            await asyncio.wait((drain, again), return_when=asyncio.FIRST_COMPLETED)
            drain.cancel()
            again.cancel()
            log.info("stopped: %d connections had to be cut", self.dataplane.relay.open_connections)

    async def _take_down(self) -> None:
        """Undo everything, in the reverse order, whatever fails on the way."""
        await self._stop_tasks()
        self.dataplane.cut_connections()
        for target in reversed(self.targets):
            try:
                await target.close()
            except UproxyError as error:
                log.error("%s; `uproxy cleanup` removes what is left", error)  # noqa: TRY400
        if self._servers is not None:
            await self._servers.close()
        self.dataplane.context.close()

    async def _stop_tasks(self) -> None:
        await self._tasks.stop()
        if self._sources.cluster is not None:
            await self._sources.cluster.close()

    def _crashed(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception escaped from a callback: a bug, which ends the process in good order."""
        error = context.get("exception") or UproxyError(context["message"])
        if not self._tasks.failed.done():
            self._tasks.failed.set_result(error)


def _wall() -> datetime:
    return datetime.now(UTC)


def _wall_s() -> float:
    return _wall().timestamp()


def _words(choice: Choice) -> tuple[str, str, str]:
    return choice.capture, choice.mechanism, choice.reason


def _dataplane(
    loop: asyncio.AbstractEventLoop, settings: Settings, choice: Choice, bridges: BridgeAnswers
) -> Dataplane:
    budget = descriptor_budget()
    context = Context(
        loop,
        Reactor(loop),
        Descriptors(loop, budget),
        Timeouts(
            connect_s=settings.connect_timeout_s,
            dial_budget_s=settings.connect_timeout_s * _DIALS_A_CONNECTION,
            idle_s=settings.idle_timeout_s,
            half_closed_s=settings.half_closed_timeout_s,
        ),
        0 if choice.capture is Capture.BIND else PROXY_MARK,
        choice.capture is Capture.BIND,
        monotonic,
        ways_back=WaysBack(monotonic, bridges.lifts) if choice.capture is Capture.TPROXY else None,
    )
    relay = _relay(settings, context)
    return Dataplane(context, relay, min(budget // _FLOWS_SHARE, _FLOWS_MAX), settings.udp_idle_timeout_s)


def _relay(settings: Settings, context: Context) -> Relay:
    """Build the relay asked for. Raises UproxyError when the native one is wanted and cannot be had."""
    ended = _log_access if settings.access_log else None
    reason = engine_or_reason() if settings.relay != "python" else None
    if settings.relay == "python":
        return PythonRelay(context, ended)
    if reason is None:
        return NativeRelay(context, settings.threads, ended)
    if settings.relay == "native":
        raise UproxyError(f"no native relay: {reason}")
    log.warning("the Python relay is used, which is slower: %s", reason)
    return PythonRelay(context, ended)


def _redirect_ports(dataplane: Dataplane) -> RedirectPorts:
    ipv4 = dataplane.listen_for_redirects(ip_address("0.0.0.0"))
    try:
        ipv6 = dataplane.listen_for_redirects(ip_address("::"))
    except OSError:
        log.info("this kernel has no IPv6: IPv6 addresses are not served")
        ipv6 = ipv4
    return RedirectPorts(ipv4, ipv6)


def _needs_route_beside_redirect(port: DesiredServicePort, frontend: Frontend) -> bool:
    """Cluster IPs get a local route, so that a node without a default route reaches them. Other
    addresses do only where a socket has to be bound (UDP): with a local route the node answers
    ARP for them."""
    is_udp = port.name.protocol is Protocol.UDP
    return frontend.kind is FrontendKind.CLUSTER_IP or (is_udp and _is_no_node_port(port, frontend))


def _is_no_node_port(_port: DesiredServicePort, frontend: Frontend) -> bool:
    """The node's own addresses are local already."""
    return frontend.kind is not FrontendKind.NODE_PORT


def _log_access(ended: Ended) -> None:
    access.info(
        "connection",
        extra={
            "fields": {
                "service": str(ended.service_port),
                "client": ended.client,
                "backend": str(ended.backend) if ended.backend is not None else "-",
                "bytes_to_backend": ended.bytes_to_backend,
                "bytes_to_client": ended.bytes_to_client,
                "duration_s": round(ended.duration_s, 6),
                "reason": str(ended.reason),
            }
        },
    )
