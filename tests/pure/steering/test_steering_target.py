"""When everything is programmed and when only a change, against a backend that checks."""

from collections.abc import Mapping
from ipaddress import ip_address

import pytest

from uproxy.errors import CommandFailed
from uproxy.model.frontend import Backend, Changes, DesiredServicePort, Frontend, FrontendKind
from uproxy.model.names import Family, Protocol, ServicePortName, Vip
from uproxy.steering.rules import Rule, RuleDelta, Verdict
from uproxy.steering.target import SteeringRules

V4 = Vip(ip_address("172.30.0.1"), 80, Protocol.TCP)
V6 = Vip(ip_address("fd00:172:30::1"), 80, Protocol.TCP)


class FakeRules:
    """A backend in memory that refuses what a kernel would: duplicates, and what is not there."""

    def __init__(self) -> None:
        self.problems: Mapping[Family, str] = {}
        self.elements: dict[Vip, Rule] | None = None
        self.transactions: list[str] = []
        self.broken = False

    async def replace(self, verdicts: Mapping[Vip, Rule], _inside) -> None:
        self._start("replace")
        self.elements = dict(verdicts)

    async def apply(self, delta: RuleDelta) -> None:
        self._start("apply")
        if self.elements is None:
            raise CommandFailed("no such table")
        if not delta.remove.items() <= self.elements.items():
            raise CommandFailed("no such element")
        left = {vip: what for vip, what in self.elements.items() if vip not in delta.remove}
        if left.keys() & delta.add.keys():
            raise CommandFailed("element exists")
        self.elements = left | dict(delta.add)

    async def lost(self, rules: Mapping[Vip, Rule], _inside) -> str | None:
        return None if self.elements == rules else "the table is gone"

    async def remove(self) -> list[str]:
        self._start("remove")
        self.elements = None
        return ["everything"]

    def _start(self, transaction: str) -> None:
        self.transactions.append(transaction)
        if self.broken:
            raise CommandFailed("out of order")


def _service(name: str = "web", backends: int = 1, vips: tuple[Vip, ...] = (V4, V6)) -> DesiredServicePort:
    usable = tuple(Backend(ip_address(f"10.0.0.{number}"), 8080) for number in range(1, backends + 1))
    return DesiredServicePort(
        name=ServicePortName("default", name, "", Protocol.TCP),
        port=80,
        frontends=tuple(Frontend(vip, FrontendKind.CLUSTER_IP, vip.family) for vip in vips),
        endpoints={},
        usable={4: usable, 6: usable},
    )


@pytest.fixture
def kernel() -> FakeRules:
    return FakeRules()


@pytest.fixture
def rival() -> FakeRules:
    return FakeRules()


@pytest.fixture
def target(kernel: FakeRules, rival: FakeRules) -> SteeringRules:
    return SteeringRules(kernel, rival.remove)


def _updated(*ports: DesiredServicePort) -> Changes:
    return Changes(updated=ports)


async def test_first_programming_replaces_and_later_ones_apply(
    target: SteeringRules, kernel: FakeRules
) -> None:
    assert await target.make(_updated(_service())) == {}
    assert await target.make(_updated(_service(backends=0))) == {}
    assert kernel.transactions == ["replace", "apply"]
    assert kernel.elements == {V4: Rule(Verdict.REJECT, alone=True), V6: Rule(Verdict.REJECT, alone=True)}


async def test_an_empty_first_programming_still_replaces_strays(
    target: SteeringRules, kernel: FakeRules
) -> None:
    assert await target.make(Changes()) == {}
    assert kernel.elements == {}


async def test_change_of_backends_and_repetition_cost_no_transaction(
    target: SteeringRules, kernel: FakeRules
) -> None:
    await target.make(_updated(_service()))
    for backends in (1, 2, 5):
        assert await target.make(_updated(_service(backends=backends))) == {}
        await target.retire(_updated(_service(backends=backends)))
    assert kernel.transactions == ["replace"]


async def test_failed_change_names_its_vips_and_the_next_attempt_replaces_all(
    target: SteeringRules, kernel: FakeRules
) -> None:
    await target.make(_updated(_service("other", vips=(V6,))))
    kernel.broken = True
    assert await target.make(_updated(_service(vips=(V4,)))) == {V4: "out of order"}
    kernel.broken, kernel.elements = False, None
    assert await target.make(_updated(_service(vips=(V4,)))) == {}
    assert kernel.transactions == ["replace", "apply", "replace"]
    assert kernel.elements == {V4: Rule(Verdict.REDIRECT, alone=True), V6: Rule(Verdict.REDIRECT, alone=True)}


async def test_failed_removal_is_made_good_with_the_next_change(
    target: SteeringRules, kernel: FakeRules
) -> None:
    await target.make(_updated(_service(vips=(V4,))))
    kernel.broken = True
    assert await target.make(Changes(removed=(_service().name,))) == {V4: "out of order"}
    kernel.broken = False
    assert await target.make(_updated(_service("other", vips=(V6,)))) == {}
    assert kernel.elements == {V6: Rule(Verdict.REDIRECT, alone=True)}


async def test_family_that_cannot_be_served_is_told_every_time(
    target: SteeringRules, kernel: FakeRules
) -> None:
    kernel.problems = {6: "no IPv6 here"}
    for _ in range(2):
        assert await target.make(_updated(_service())) == {V6: "no IPv6 here"}


async def test_prune_removes_the_other_mechanism_and_a_failure_is_not_fatal(
    target: SteeringRules, kernel: FakeRules, rival: FakeRules
) -> None:
    await target.make(_updated(_service()))
    await target.prune()
    rival.broken = True
    await target.prune()
    assert rival.transactions == ["remove", "remove"]
    assert kernel.transactions == ["replace"]


async def test_close_removes_everything(target: SteeringRules, kernel: FakeRules) -> None:
    await target.make(_updated(_service()))
    await target.close()
    assert kernel.elements is None


async def test_what_others_flush_comes_back_and_is_told_once(caplog) -> None:
    backend = FakeRules()
    target = SteeringRules(backend, backend.remove)
    await target.make(Changes((_service(),)))
    before = dict(backend.elements or {})
    await target.check()
    assert backend.transactions == ["replace"]
    backend.elements = None
    for _ in range(3):
        await target.check()
    assert backend.elements == before
    assert backend.transactions == ["replace", "replace"]
    assert caplog.text.count("the table is gone") == 1


async def test_what_is_closed_is_not_looked_at() -> None:
    backend = FakeRules()
    target = SteeringRules(backend, backend.remove)
    await target.make(Changes((_service(),)))
    await target.close()
    await target.check()
    assert backend.elements is None
