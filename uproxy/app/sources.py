"""Where objects come from: manifests or a cluster, and what `--endpoint` adds to either."""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from uproxy.admin import events
from uproxy.admin.cluster_metrics import Followed
from uproxy.dns.cluster_dns import ClusterDns
from uproxy.model.events import Event
from uproxy.model.faults import BadInput, Fault
from uproxy.model.frontend import Changes
from uproxy.model.names import Vip
from uproxy.model.service import Service
from uproxy.reconcile.loop import ReconcileLoop
from uproxy.settings import Settings
from uproxy.sources import files, flags
from uproxy.sources.resolve import Resolver
from uproxy.state.store import Store


@dataclass(frozen=True, slots=True)
class Sources:
    """Where objects come from."""

    names: frozenset[str]
    """Whose first complete lists are awaited."""
    tasks: Mapping[str, Callable[[], Coroutine[Any, Any, None]]]
    """What has to run for as long as the proxy does."""
    skipped: Callable[[], int]
    """How many objects were of no use."""
    post: events.Post | None = None
    """Creates Events; None without a cluster."""
    followed: Followed = tuple
    """How each resource of a cluster stands."""
    ready: Callable[[], Awaitable[object]] | None = None
    """Finds out whether there are credentials at all, before anything is served."""


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
    source = ClusterSource(
        from_cluster,
        access_,
        settings.node_name,
        proxy_name=settings.proxy_name,
        headless=bool(settings.dns_addresses),
    )
    return Sources(
        frozenset((NAME, flags.NAME)),
        {NAME: source.run},
        lambda: sum(status.skipped for status in source.status),
        source.post_event,
        lambda: source.status,
        access_.credentials,
    )


class Emit:
    """Where sources send events; connected once there is somebody to take them."""

    def __init__(self) -> None:
        self.target: ReconcileLoop | None = None
        self.names: ClusterDns | None = None
        """Follows the same events, where names are served."""

    def __call__(self, event: Event) -> None:
        """Pass an event on. Before the connection there are none: sources only begin when they run."""
        if self.names is not None:
            self.names.observe(event)
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
