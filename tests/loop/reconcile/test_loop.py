"""Events become programming: in order, not too early, and again when it failed."""

import asyncio
from ipaddress import ip_address, ip_network
from time import monotonic

import pytest_asyncio

from tests.loop.rig import until
from uproxy.model.events import Delete, Synced, Upsert
from uproxy.model.frontend import Changes
from uproxy.model.names import NamespacedName, Protocol, Vip
from uproxy.model.service import Service, ServicePort
from uproxy.reconcile import loop as reconcile_loop
from uproxy.reconcile.loop import ReconcileLoop
from uproxy.state.addresses import AddressPlan
from uproxy.state.store import Store

VIP = Vip(ip_address("10.96.0.1"), 80, Protocol.TCP)


def service(name: str = "web", ip: str = "10.96.0.1") -> Service:
    port = ServicePort("", Protocol.TCP, 80, 80)
    return Service(NamespacedName("default", name), (port,), cluster_ips=(ip_address(ip),))


class FakeTarget:
    """Notes what it is asked, in a list that targets share, and fails where it is told to."""

    def __init__(self, name: str, calls: list) -> None:
        self.name = name
        self.calls = calls
        self.fails: set = set()
        self.reason = "no luck"

    async def make(self, changes: Changes):
        self.calls.append((self.name, "make", changes))
        vips = [frontend.vip for desired in changes.updated for frontend in desired.frontends]
        return {vip: self.reason for vip in vips if vip in self.fails}

    async def retire(self, changes: Changes) -> None:
        self.calls.append((self.name, "retire", changes))

    async def prune(self) -> None:
        self.calls.append((self.name, "prune", None))

    async def close(self) -> None:
        pass


class Bench:
    def __init__(self) -> None:
        self.calls: list = []
        self.wall_s = 1000.0
        self.first, self.second = FakeTarget("first", self.calls), FakeTarget("second", self.calls)
        store = Store(AddressPlan(ip_network("10.96.0.0/16"), loopback_only=False))
        sources = frozenset(("files", "flags"))
        self.loop = ReconcileLoop(store, [self.first, self.second], sources, monotonic, lambda: self.wall_s)
        self.task = asyncio.ensure_future(self.loop.run())

    def sync(self) -> None:
        self.loop.emit(Synced("files"))
        self.loop.emit(Synced("flags"))

    def steps(self) -> list[tuple[str, str]]:
        return [(name, verb) for name, verb, _ in self.calls]


@pytest_asyncio.fixture
async def bench():
    made = Bench()
    yield made
    made.task.cancel()
    await asyncio.gather(made.task, return_exceptions=True)


async def test_nothing_is_programmed_before_every_source_has_synced(bench):
    bench.loop.emit(Upsert(service()))
    bench.loop.emit(Synced("files"))
    for _ in range(20):
        await asyncio.sleep(0)
    assert bench.calls == []
    assert not bench.loop.programmed.is_set()
    bench.loop.emit(Synced("flags"))
    await until(bench.loop.programmed.is_set)


async def test_made_in_order_retired_in_reverse_and_pruned_once_after_the_first(bench):
    bench.loop.emit(Upsert(service()))
    bench.sync()
    await until(bench.loop.programmed.is_set)
    once = [("first", "make"), ("second", "make"), ("second", "retire"), ("first", "retire")]
    assert bench.steps() == [*once, ("first", "prune"), ("second", "prune")]
    bench.calls.clear()
    bench.loop.emit(Delete(service()))
    await until(lambda: len(bench.calls) == 4)
    assert bench.steps() == once


async def test_events_of_one_moment_are_programmed_together(bench):
    bench.sync()
    await until(bench.loop.programmed.is_set)
    bench.calls.clear()
    for _ in range(100):
        bench.loop.emit(Upsert(service()))
    await until(lambda: len(bench.calls) == 4)
    assert bench.loop.queued_since_s is None


async def test_what_failed_is_shown_and_tried_again_until_it_works(bench, monkeypatch):
    monkeypatch.setattr(reconcile_loop, "RETRY_FIRST_S", 0.01)
    bench.loop._retry_s = 0.01
    bench.loop.emit(Upsert(service()))
    bench.second.fails = {VIP}
    bench.sync()
    await until(lambda: bench.loop.problems)
    [(name, reasons)] = bench.loop.problems.items()
    assert (name.name, list(reasons.values())) == ("web", ["no luck"])
    bench.second.fails = set()
    await until(lambda: not bench.loop.problems)


async def test_of_one_address_all_that_is_wrong_is_told(bench, caplog):
    bench.loop.emit(Upsert(service()))
    bench.first.fails = bench.second.fails = {VIP}
    bench.second.reason = "cannot listen"
    bench.sync()
    await until(lambda: bench.loop.problems)
    assert [*bench.loop.problems.values()] == [{VIP: "no luck; cannot listen"}]
    assert f"default/web/TCP at {VIP}: no luck; cannot listen" in caplog.text


async def test_it_is_not_ready_while_nothing_at_all_can_be_programmed(bench, caplog):
    caplog.set_level("INFO", "uproxy")
    bench.loop._retry_s = 0.01
    bench.loop.emit(Upsert(service()))
    bench.second.fails = {VIP}
    bench.sync()
    await until(lambda: bench.loop.problems)
    assert not bench.loop.works()
    assert not bench.loop.programmed.is_set()
    assert ("second", "prune", None) not in bench.calls
    bench.second.fails = set()
    await until(bench.loop.programmed.is_set)
    assert bench.loop.works()
    told = [record.message for record in caplog.records if "no address at all" in record.message]
    assert [line.partition(":")[0] for line in told] == [
        "no address at all could be programmed",
        "no longer",
    ]


async def test_one_service_in_trouble_does_not_hold_up_the_others(bench):
    bench.loop.emit(Upsert(service()))
    bench.loop.emit(Upsert(service("free", "10.96.0.2")))
    bench.second.fails = {VIP}
    bench.sync()
    await until(bench.loop.programmed.is_set)
    assert bench.loop.works()


async def test_what_failed_is_not_tried_again_with_every_change(bench):
    bench.loop._retry_s = 1000.0
    bench.loop.emit(Upsert(service()))
    bench.second.fails = {VIP}
    bench.sync()
    await until(lambda: bench.loop.problems)
    bench.calls.clear()
    for number in range(5):
        bench.loop.emit(Upsert(service(f"other-{number}", f"10.96.1.{number}")))
        await until(lambda: bench.loop.queued_since_s is None)
    made = [port.name.name for _, step, changes in bench.calls if step == "make" for port in changes.updated]
    assert made
    assert "web" not in made
    assert [name.name for name in bench.loop.problems] == ["web"]


async def test_a_deleted_service_takes_its_problem_along(bench):
    bench.loop.emit(Upsert(service()))
    bench.second.fails = {VIP}
    bench.sync()
    await until(lambda: bench.loop.problems)
    bench.loop.emit(Delete(service()))
    await until(lambda: not bench.loop.problems)


async def test_others_have_their_turn_while_many_services_are_rebuilt(bench, monkeypatch):
    monkeypatch.setattr("uproxy.kit.turns.PORTION_S", 0.0)  # all that is done takes its time
    for number in range(50):
        bench.loop.emit(Upsert(service(f"web-{number}")))
    bench.sync()
    turns = 0
    while not bench.calls:
        await asyncio.sleep(0)
        turns += 1
    assert turns > 50
    name, verb, changes = bench.calls[0]
    assert (name, verb, len(changes.updated)) == ("first", "make", 50)


class TestHeld:
    async def test_nothing_is_programmed_until_it_is_resumed_and_then_everything(self, bench):
        bench.loop.hold()
        bench.loop.emit(Upsert(service("a")))
        bench.loop.emit(Upsert(service("gone")))
        bench.sync()
        await until(bench.loop.prepared.is_set)
        bench.loop.emit(Delete(service("gone")))
        bench.loop.emit(Upsert(service("b")))
        await until(lambda: len(bench.loop.store.desired) == 2 and bench.loop.queued_since_s is None)
        assert bench.calls == []
        bench.loop.resume()
        await until(bench.loop.programmed.is_set)
        name, verb, changes = bench.calls[0]
        assert (name, verb, changes.removed) == ("first", "make", ())
        assert {desired.name.service.name for desired in changes.updated} == {"a", "b"}
        assert len([call for call in bench.calls if call[1] == "make"]) == 2

    async def test_resumed_too_early_it_waits_for_the_sources(self, bench):
        bench.loop.hold()
        bench.loop.emit(Upsert(service("a")))
        bench.loop.resume()
        await asyncio.sleep(0.05)
        assert bench.calls == []
        bench.sync()
        await until(bench.loop.programmed.is_set)

    async def test_at_rest_no_target_does_anything_any_more(self, bench):
        begun, may_end = asyncio.Event(), asyncio.Event()

        async def slow(_changes):
            begun.set()
            await may_end.wait()
            return {}

        bench.second.make = slow
        bench.loop.emit(Upsert(service("a")))
        bench.sync()
        await begun.wait()
        resting = asyncio.ensure_future(bench.loop.at_rest())
        await asyncio.sleep(0.01)
        assert not resting.done()
        may_end.set()
        await resting
        calls = list(bench.calls)
        bench.loop.emit(Delete(service("a")))
        await asyncio.sleep(0.05)
        assert bench.calls == calls
        assert calls[-1][1] == "prune"
