"""A path that is up and waits to be measured: its client, its addresses, its programs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

from uproxy.bench.generator import Generator, generator, serving, wait_serving
from uproxy.bench.paths import Address, Built, TrafficPath
from uproxy.bench.programs import Program
from uproxy.bench.sites import Site
from uproxy.errors import CommandFailed

MakeSite = Callable[[], AbstractContextManager[Site]]


@dataclass(frozen=True, slots=True)
class Stage:
    """What a measurement needs to know of a path."""

    path: str
    generator: Generator
    """On the client's host."""
    one: Address
    """Leads to one endpoint."""
    all: Address | None
    """Leads to all in turns; None where nothing chooses."""
    carries_udp: bool
    proxy: Program | None = None
    servers: tuple[Program, ...] = ()
    """In the order of the pods; empty when the endpoints are not ours."""

    @property
    def proxy_pids(self) -> list[int]:
        """The proxy's process, on paths that have one."""
        return [self.proxy.pid] if self.proxy else []

    @property
    def server_pids(self) -> list[int]:
        """The pods' processes."""
        return [server.pid for server in self.servers]


@dataclass(frozen=True, slots=True)
class Rising:
    """A path whose programs have been started."""

    stage: Stage
    site: Site
    built: Built

    def wait_ready(self) -> Stage:
        """Return when connections are taken; CommandFailed when that does not come to pass."""
        for server in self.stage.servers:
            wait_serving(server)
        self.built.wait_ready()
        return self.stage


@contextmanager
def rising(path: TrafficPath, make_site: MakeSite, *, servers: int, others: int = 0) -> Iterator[Rising]:
    """Build a site and start everything, without waiting, so that several paths start at once.

    So many of the pods get a server, from the first on; `others` Services more are programmed.
    """
    with ExitStack() as stack:
        site = stack.enter_context(make_site())
        started = tuple(stack.enter_context(serving(pod)) for pod in site.pods[:servers])
        built = stack.enter_context(path.build(site, others))
        client = stack.enter_context(generator(site.client))
        carrier = built.proxy if built.carries else None
        stage = Stage(path.name, client, built.one, built.all, path.carries_udp, carrier, started)
        yield Rising(stage, site, built)


def raise_all(
    stack: ExitStack, starts: Mapping[str, AbstractContextManager[Rising]]
) -> tuple[list[Rising], dict[str, str]]:
    """Start paths at once, then wait for each; those that failed are told apart, with the reason."""
    started: dict[str, Rising] = {}
    failed: dict[str, str] = {}
    for name, start in starts.items():
        try:
            started[name] = stack.enter_context(start)
        except CommandFailed as error:
            failed[name] = str(error)
    for name, one in started.items():
        try:
            one.wait_ready()
        except CommandFailed as error:
            failed[name] = str(error)
    return [one for name, one in started.items() if name not in failed], failed
