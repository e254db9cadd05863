"""What steering, bridges and the handoff say to nf_tables, to one that checks and is in memory."""

from ipaddress import ip_address
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.fake_nf_tables import NfTables
from tests.pure.steering.test_steering_rendering import BRIDGES, DELIVERED, INSIDE, PORTS
from uproxy.handoff import accounting, nft_chains
from uproxy.handoff.nft_batch import Batch, Counts, Leg, counter, dispatch, legs
from uproxy.handoff.plan import KernelPort, KernelVip
from uproxy.model.frontend import Backend
from uproxy.model.names import Protocol, ServicePortName, Vip
from uproxy.steering import bridges, nft, tproxy
from uproxy.steering.rules import Rule, RuleDelta, alone

CHOSEN = st.sets(st.sampled_from(sorted(DELIVERED, key=str)))


def _delta(old: dict[Vip, Rule], new: dict[Vip, Rule]) -> RuleDelta:
    return RuleDelta(new, old, alone(new) - alone(old), alone(old) - alone(new))


@given(st.lists(CHOSEN, min_size=1, max_size=6))
def test_changes_lead_to_what_a_new_table_has(steps: list[set[Vip]]) -> None:
    versions = [{vip: DELIVERED[vip] for vip in sorted(vips, key=str)} for vips in steps]
    changed, at_once = NfTables(), NfTables()
    changed.commit(tproxy.table(PORTS, versions[0], INSIDE).commands())
    for old, new in pairwise(versions):
        if commands := nft.changes(_delta(old, new)):
            changed.commit(commands)
    at_once.commit(tproxy.table(PORTS, versions[-1], INSIDE).commands())
    assert str(changed) == str(at_once)


def test_tables_replace_their_older_selves_and_no_others() -> None:
    kernel = NfTables()
    for _ in range(2):
        kernel.commit(tproxy.table(PORTS, DELIVERED, INSIDE).commands())
        kernel.commit(bridges.table(BRIDGES, (4, 6)).commands())
        kernel.commit(nft_chains.table(INSIDE, accounting.note(before=True)).commands())
    assert len(kernel.tables) == 3
    kernel.commit(bridges.table([], ()).commands())
    assert len(kernel.tables) == 2


NAME = ServicePortName("default", "web", "web", Protocol.TCP)
VIPS = [Vip(ip_address(ip), 80, Protocol.TCP) for ip in ("172.30.0.1", "fd00::1", "0.0.0.0")]


@st.composite
def web(draw: st.DrawFn) -> KernelPort:
    """A Service port as it may be from one moment to the next."""
    timeout_s = draw(st.sampled_from([None, None, 300, 600]))
    vips = []
    for vip in draw(st.lists(st.sampled_from(VIPS), unique=True)):
        some = draw(st.lists(st.integers(1, 4), unique=True, max_size=4))
        base = ip_address("10.244.0.0" if vip.family == 4 else "fd00:10::")
        pods = tuple(Backend(base + number, 8080) for number in some)
        inside = draw(st.sampled_from([pods, pods[:1]]))
        vips.append(KernelVip(vip, pods, inside, draw(st.booleans())))
    return KernelPort(NAME, tuple(vips), timeout_s)


class Programmer:
    """As `NftablesHandoff` does it, for one Service port."""

    def __init__(self, kernel: NfTables) -> None:
        self._kernel = kernel
        self._legs: dict[Any, tuple[str, Leg]] = {}
        self._found: dict[Any, str] = {}
        self._counted: set[Any] = set()
        self._names = 0

    def program(self, port: KernelPort) -> None:
        batch, before, found = Batch(), self._legs, {}
        self._legs = {}
        for leg, kind in legs(port):
            name, old = before.get(leg.key) or (self._new_name(), None)
            batch.chain(name, leg, old)
            self._legs[leg.key] = name, leg
            found[dispatch(kind, leg.vip)] = name
            for backend in leg.backends:
                self._count(batch, counter(leg.vip, backend), Counts(backend, leads=True))
        keys = self._found.keys() | found.keys()
        changed = {key: (self._found.get(key), found.get(key)) for key in keys}
        batch.lead({key: its for key, its in changed.items() if its[0] != its[1]})
        for key in before.keys() - self._legs.keys():
            batch.remove(*before[key])
        self._found = found
        if commands := batch.commands():
            self._kernel.commit(commands)

    def _count(self, batch: Batch, one: Any, its: Counts) -> None:
        if one not in self._counted:
            self._counted.add(one)
            batch.count({one: (None, its)})

    def _new_name(self) -> str:
        self._names += 1
        return f"s{self._names}"


@given(st.lists(web(), max_size=6))
def test_handed_services_come_change_and_go_and_leave_nothing(versions: list[KernelPort]) -> None:
    kernel = NfTables()
    kernel.commit(nft_chains.table(INSIDE, accounting.note(before=False)).commands())
    empty, programmer = str(kernel), Programmer(kernel)
    for port in versions:
        programmer.program(port)
    programmer.program(KernelPort(NAME, (), None))
    counting = [line for line in str(kernel).splitlines() if line not in empty.splitlines()]
    assert all(line.startswith("    ") for line in counting), counting
    assert "goto" not in str(kernel)
    assert "  chain s" not in str(kernel)
