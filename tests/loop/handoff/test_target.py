"""The target against a mechanism that remembers what it was told, and may refuse."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from tests.pure.handoff.test_plan import CLUSTER, ONE, TWO
from uproxy.errors import CommandFailed
from uproxy.handoff.decision import HOT_CONNECTIONS_PER_S, HOT_FOR_S
from uproxy.handoff.mechanism import NOBODY, Clients, Counts, Seen
from uproxy.handoff.plan import KernelPort
from uproxy.handoff.target import CHECK_S, KernelPaths
from uproxy.model.affinity import Pinned
from uproxy.model.frontend import Backend, Changes, DesiredServicePort, EndpointState, Frontend
from uproxy.model.names import IPNetwork, Protocol, ServicePortName, Vip
from uproxy.model.options import Options, parse_options


class Kernel:
    """A Mechanism."""

    name = "fake"
    knows_clients = True

    def __init__(self) -> None:
        self.pinned: dict[ServicePortName, Collection[Pinned]] = {}
        self.ports: dict[ServicePortName, KernelPort] = {}
        self.draining: set[ServicePortName] = set()
        self.calls: list[str] = []
        self.refuses: set[str] = set()
        self.numbers: dict[tuple[ServicePortName, Backend], Counts] = {}
        self.gone: str | None = None

    def _called(self, what: str) -> None:
        self.calls.append(what)
        if what in self.refuses:
            raise CommandFailed(f"nft: no {what} today")

    def refusal(self, port: KernelPort) -> str | None:
        return None

    async def begin(self, inside: Sequence[IPNetwork]) -> None:
        self._called("begin")
        self.ports.clear()

    async def put(self, ports: Sequence[KernelPort], clients: Clients = NOBODY) -> None:
        self._called("put")
        self.ports.update((port.name, port) for port in ports)
        self.pinned |= clients

    async def clients(self, names: Collection[ServicePortName]) -> Clients:
        return {name: self.pinned.get(name, ()) for name in names}

    async def take(self, names: Collection[ServicePortName]) -> None:
        self._called("take")
        for name in names:
            del self.ports[name]

    async def drop_flows(self, usable: Mapping[ServicePortName, Collection[Backend]]) -> None:
        self._called("drop_flows")

    async def tend(self) -> Collection[tuple[ServicePortName, Backend]]:
        self._called("tend")
        return ()

    async def look(self) -> Seen:
        return Seen(self.numbers)

    async def lost(self) -> str | None:
        return self.gone

    async def close(self) -> None:
        self._called("close")


class Books:
    """A Ledger."""

    def __init__(self) -> None:
        self.numbers: dict[ServicePortName, list[int]] = {}
        self.clients: dict[ServicePortName, Collection[Pinned]] = {}

    def totals(self) -> Iterator[tuple[ServicePortName, int, int]]:
        return ((name, *both) for name, both in self.numbers.items())

    def add(self, name: ServicePortName, backend: Backend, connections: int, to_backend: int, to_client: int):
        both = self.numbers.setdefault(name, [0, 0])
        both[0] += connections
        both[1] += to_backend + to_client

    def in_kernel(self, name: ServicePortName, count: int) -> None:
        pass

    def pinned(self, name: ServicePortName) -> Collection[Pinned]:
        return self.clients.get(name, ())

    def pin(self, name: ServicePortName, clients: Collection[Pinned]) -> None:
        self.clients[name] = clients


class Bench:
    def __init__(self) -> None:
        self.kernel, self.books, self.now_s = Kernel(), Books(), 0.0
        self.paths = KernelPaths(self.kernel, self.books, lambda: 0.1, lambda: self.now_s, lambda: 0.0)

    async def second(self, rates: Mapping[ServicePortName, int]) -> None:
        self.now_s += 1.0
        for name, connections in rates.items():
            self.books.numbers.setdefault(name, [0, 0])[0] += connections
        await self.paths.look()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def named(number: int = 0) -> ServicePortName:
    return ServicePortName("default", f"web-{number}", "", Protocol.TCP)


def port(
    number: int = 0, backends: tuple[Backend, ...] = (ONE, TWO), **annotations: str
) -> DesiredServicePort:
    vip = Vip(ip_address("10.96.0.1") + number, 80, Protocol.TCP)
    options: Options = parse_options({f"uproxy.dev/{key}": value for key, value in annotations.items()})[0]
    states = dict.fromkeys(backends, EndpointState.READY)
    frontend = Frontend(vip, CLUSTER.kind, 4)
    return DesiredServicePort(named(number), 80, (frontend,), states, {4: backends}, options=options)


async def test_an_annotation_moves_it_at_once_and_back(bench):
    await bench.paths.make(Changes((port(handoff="always"),)))
    assert bench.kernel.calls == ["begin", "put"]
    assert bench.paths.carriage(named()).path == "fake"
    await bench.paths.make(Changes((port(handoff="never"),)))
    assert bench.kernel.ports == {}
    assert bench.paths.carriage(named()).why == "handoff: never"


async def test_the_same_again_programs_nothing(bench):
    await bench.paths.make(Changes((port(handoff="always"),)))
    await bench.paths.make(Changes((port(handoff="always"),)))
    assert bench.kernel.calls == ["begin", "put"]


async def test_endpoints_reach_the_kernel_and_the_last_one_takes_it_back(bench):
    await bench.paths.make(Changes((port(handoff="always"),)))
    await bench.paths.make(Changes((port(handoff="always", backends=(TWO,)),)))
    assert bench.kernel.ports[named()].vips[0].backends == (TWO,)
    await bench.paths.make(Changes((port(handoff="always", backends=()),)))
    assert bench.kernel.ports == {}
    await bench.paths.make(Changes((), (named(),)))
    assert named() not in bench.paths.carried


async def test_a_load_step_moves_one_of_a_hundred(bench):
    await bench.paths.make(Changes(tuple(port(number) for number in range(100))))
    everybody = {named(number): 5 for number in range(100)}
    for _ in range(5):
        await bench.second(everybody)
    assert bench.kernel.ports == {}
    for _ in range(round(HOT_FOR_S) + 1):
        await bench.second({**everybody, named(7): 2 * int(HOT_CONNECTIONS_PER_S)})
    assert set(bench.kernel.ports) == {named(7)}
    for _ in range(120):
        await bench.second(everybody)
    assert bench.kernel.ports == {}
    assert bench.paths.moves == {"kernel": 1, "relay": 1}


async def test_what_the_kernel_counts_is_added_once_and_keeps_it_there(bench):
    await bench.paths.make(Changes((port(),)))
    for _ in range(6):
        await bench.second({named(): 2000})
    assert set(bench.kernel.ports) == {named()}
    before = bench.books.numbers[named()][0]
    for second in range(1, 200):
        bench.kernel.numbers = {(named(), ONE): Counts(1500 * second, 0, 0)}
        await bench.second({})
    assert set(bench.kernel.ports) == {named()}
    assert bench.books.numbers[named()][0] - before == 1500 * 199


async def test_a_kernel_that_refuses_leaves_it_with_the_relay(bench):
    bench.kernel.refuses = {"put"}
    await bench.paths.make(Changes((port(handoff="always"),)))
    assert bench.paths.carriage(named()).path == "relay"
    bench.kernel.refuses = set()
    await bench.paths.make(Changes((port(handoff="always", backends=(ONE,)),)))
    assert bench.paths.carriage(named()).path == "fake"
    bench.kernel.refuses = {"put"}
    await bench.paths.make(Changes((port(handoff="always", backends=(TWO,)),)))
    assert bench.kernel.ports == {}  # rather by the relay than to endpoints that are no more
    assert "refused" in bench.paths.carriage(named()).why


async def test_what_others_flushed_is_programmed_anew(bench):
    await bench.paths.make(Changes((port(handoff="always"), port(1, handoff="always"))))
    bench.kernel.refuses = {"tend"}
    bench.kernel.ports.clear()
    await bench.paths.look()
    assert set(bench.kernel.ports) == {named(), named(1)}


async def test_where_it_cannot_begin_everything_stays_with_the_relay_until_it_can(bench):
    bench.kernel.refuses = {"begin"}
    await bench.paths.make(Changes((port(handoff="always"),)))
    assert bench.paths.carriage(named()).path == "relay"
    bench.kernel.refuses = set()
    await bench.paths.make(Changes((port(handoff="always", backends=(ONE,)),)))
    assert bench.paths.carriage(named()).path == "fake"


async def test_what_somebody_removed_without_a_word_is_found_within_half_a_minute_and_told_once(
    bench, caplog
):
    await bench.paths.make(Changes((port(handoff="always"),)))
    bench.kernel.ports.clear()
    bench.kernel.gone = "chain take is gone"
    for _ in range(round(CHECK_S) - 1):
        await bench.second({})
    assert bench.kernel.ports == {}
    await bench.second({})
    assert set(bench.kernel.ports) == {named()}
    bench.kernel.gone = None
    for _ in range(100):
        await bench.second({})
    assert bench.kernel.calls.count("begin") == 2
    assert caplog.text.count("chain take is gone") == 1


async def test_where_it_cannot_begin_it_is_tried_again_without_a_change_and_told_once(bench, caplog):
    bench.kernel.refuses = {"begin"}
    await bench.paths.make(Changes((port(handoff="always"),)))
    for _ in range(200):
        await bench.second({})
    assert caplog.text.count("no Service goes to the kernel") == 1
    bench.kernel.refuses = set()
    for _ in range(round(CHECK_S)):
        await bench.second({})
    assert set(bench.kernel.ports) == {named()}


async def test_leaving_takes_everything_back(bench):
    await bench.paths.make(Changes((port(handoff="always"),)))
    assert await bench.paths.leave(1.0) == 0
    assert bench.kernel.ports == {}
    await bench.paths.make(Changes((port(handoff="always", backends=(ONE,)),)))
    assert bench.kernel.ports == {}


async def test_clients_under_affinity_go_along_there_and_back(bench):
    early, late = [Pinned("192.0.2.1", ONE, 1.0)], [Pinned("192.0.2.2", TWO, 1.0)]
    sticky = replace(port(), affinity_timeout_s=300)
    bench.books.clients[named()] = early
    await bench.paths.make(Changes((sticky,)))
    assert bench.paths.carriage(named()).why == ""
    for _ in range(round(HOT_FOR_S) + 2):
        await bench.second({named(): 2 * int(HOT_CONNECTIONS_PER_S)})
    assert bench.kernel.pinned == {named(): early}
    bench.kernel.pinned[named()] = late
    await bench.paths.make(Changes((replace(sticky, affinity_timeout_s=200),)))
    assert bench.kernel.pinned == {named(): late}  # not those that the relay had before
    await bench.paths.make(Changes((replace(sticky, options=port(handoff="never").options),)))
    assert bench.books.clients == {named(): late}


async def test_a_kernel_that_cannot_be_told_gets_no_clients_but_when_it_must(bench):
    bench.kernel.knows_clients = False
    await bench.paths.make(Changes((replace(port(), affinity_timeout_s=300),)))
    assert bench.paths.carriage(named()).why.startswith("held by session affinity")
    await bench.paths.make(Changes((replace(port(handoff="always"), affinity_timeout_s=300),)))
    assert set(bench.kernel.ports) == {named()}


async def test_source_ranges_hold_it_where_no_rule_asks_for_them(bench):
    args = bench.kernel, bench.books, lambda: 0.1, lambda: bench.now_s, lambda: 0.0
    bench.paths = KernelPaths(*args, guarded=False)
    desired = port(handoff="always")
    await bench.paths.make(Changes((desired,)))
    assert set(bench.kernel.ports) == {named()}
    ranged = replace(desired.frontends[0], allowed=(ip_network("203.0.113.0/24"),))
    await bench.paths.make(Changes((replace(desired, frontends=(ranged,)),)))
    assert bench.kernel.ports == {}
    assert bench.paths.carriage(named()).why.startswith("held by source ranges")
