"""Which Service ports the kernel carries now, and how they get there and back.

Owns the order of a move: the kernel's path is programmed, and only then do new connections take it; what the
relay has in hand stays there, and on the way back the kernel keeps what it has. As a target it brings a
change of endpoints to the kernel with the same batch that brings it to the relay. Refuses to decide who is
hot (`decision.py`), what can move (`plan.py`) and how it is programmed (a `Mechanism`).
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product

from uproxy.errors import CommandFailed
from uproxy.handoff.decision import Decision, Move, Rates
from uproxy.handoff.ledger import Ledger
from uproxy.handoff.mechanism import NOBODY, Clients, Counts, Mechanism
from uproxy.handoff.plan import KernelPort, holding, kernel_port
from uproxy.kit.turns import Turns
from uproxy.model.affinity import Pinned
from uproxy.model.frontend import Backend, Changes, DesiredServicePort
from uproxy.model.names import IPNetwork, Protocol, ServicePortName, Vip
from uproxy.model.options import Handoff

TICK_S = 1.0
_LOOKING_SHARE = 0.05
"""Of the time at most is spent on looking: where that takes long, many connections wait for their CPU."""
CHECK_S = 30.0
"""How often the kernel is asked whether it has what it should; kube-proxy programs all anew as often."""
AT_ONCE = 250
"""Service ports in one transaction."""
_DRAIN_POLL_S = 0.1

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Carriage:
    """Who carries a Service port, as `uproxy services` shows it."""

    path: str
    """`relay`, or the mechanism's name."""
    why: str = ""
    """Why it moved last, or what keeps it in userspace."""
    since_s: float | None = None
    """Unix time of its last move; None when it has never moved."""


class KernelPaths:
    """A target: what of the desired state is in the kernel."""

    def __init__(
        self,
        mechanism: Mechanism,
        ledger: Ledger,
        load: Callable[[], float],
        now: Callable[[], float],
        wall: Callable[[], float],
        *,
        guarded: bool = True,
    ) -> None:
        """`load` tells how busy the proxy's CPUs were since it was asked last, 0 to 1; `guarded` whether the
        capture's rules ask who may come, ahead of the mechanism's."""
        self._guarded = guarded
        self.mechanism = mechanism
        self.moves = {"kernel": 0, "relay": 0}
        """How many Service ports have moved there."""
        self._ledger = ledger
        self._load = load
        self._now = now
        self._wall = wall
        self._decision = Decision()
        self._desired: dict[ServicePortName, DesiredServicePort] = {}
        self._carried: dict[ServicePortName, KernelPort] = {}
        self._last: dict[ServicePortName, Carriage] = {}
        self._inside: tuple[IPNetwork, ...] = ()
        self._begun = False
        self._why_not = ""
        self._leaving = False
        self._in_kernel: Mapping[ServicePortName, int] = {}
        self._totals: dict[ServicePortName, tuple[int, int]] = {}
        self._counted: dict[tuple[ServicePortName, Backend], Counts] = {}
        self._looked_s = self._checked_s = now()
        self._lock = asyncio.Lock()

    # ---- what is shown ----

    @property
    def carried(self) -> Collection[ServicePortName]:
        """Service ports whose new connections the kernel takes."""
        return self._carried.keys()

    def carriage(self, name: ServicePortName) -> Carriage:
        """Who carries a Service port, since when and why."""
        last = self._last.get(name)
        if name in self._carried:
            return last or Carriage(self.mechanism.name)
        desired = self._desired.get(name)
        held = self._held(desired) if desired is not None else ""
        if last is not None:
            return Carriage("relay", held or last.why, last.since_s)
        return Carriage("relay", held)

    def _held(self, desired: DesiredServicePort) -> str:
        """What keeps it in userspace; empty when nothing does."""
        if desired.options.handoff is Handoff.NEVER:
            return "handoff: never"
        features = holding(desired)
        if features:
            return f"held by {', '.join(features)}"
        port = kernel_port(desired)
        if port is None:
            return ""
        if not self._guarded and any(its.guarded for its in port.vips):
            return "held by source ranges, which the kernel asks for with capture redirect only"
        refusal = self.mechanism.refusal(port)
        if refusal is not None:
            return f"not by {self.mechanism.name}: {refusal}"
        if (
            desired.options.handoff is Handoff.AUTO
            and desired.affinity_timeout_s is not None
            and not self.mechanism.knows_clients
        ):
            return "held by session affinity, but with handoff: always"
        return ""

    # ---- Target ----

    async def make(self, changes: Changes) -> Mapping[Vip, str]:
        """Bring the kernel in line for what it carries, or is told to carry; others stay as they are."""
        async with self._lock:
            if changes.inside is not None:
                self._inside = changes.inside
            if not self._begun or changes.inside is not None:
                await self._begin()
            for name in changes.removed:
                self._desired.pop(name, None)
                self._decision.forget(name)
                self._last.pop(name, None)
                self._totals.pop(name, None)
            put, take = [], [name for name in changes.removed if name in self._carried]
            for desired in changes.updated:
                self._desired[desired.name] = desired
                port = self._wanted(desired)
                if port is not None and port != self._carried.get(desired.name):
                    put.append(port)
                elif port is None and desired.name in self._carried:
                    take.append(desired.name)
            await self._take(take)
            await self._put(put)
            await self._drop_flows(changes)
        return {}

    async def retire(self, changes: Changes) -> None:
        """Nothing is left to do."""

    async def prune(self) -> None:
        """What an earlier run left was replaced at once."""

    async def close(self) -> None:
        """Remove every trace. Raises CommandFailed when the kernel refuses."""
        self._leaving = True
        async with self._lock:
            await self.mechanism.close()

    async def _begin(self) -> None:
        """An empty table, and everything that was carried once more."""
        again = list(self._carried.values())
        self._carried.clear()
        try:
            await self.mechanism.begin(self._inside)
            await self.mechanism.lost()
        except CommandFailed as error:
            self._begun = False
            if str(error) != self._why_not:
                _log.warning("no Service goes to the kernel: %s", error)
            self._why_not = str(error)
            return
        self._begun, self._why_not = True, ""
        self._counted.clear()
        names = {port.name for port in again}
        asked = (self._wanted(its) for name, its in self._desired.items() if name not in names)
        await self._put([*again, *(port for port in asked if port is not None)])

    async def _drop_flows(self, changes: Changes) -> None:
        served: dict[ServicePortName, Collection[tuple[Vip, Backend]]] = dict.fromkeys(changes.removed, ())
        for desired in changes.updated:
            usable = chain.from_iterable((*desired.usable.values(), *desired.local.values()))
            vips = [frontend.vip for frontend in desired.frontends]
            served[desired.name] = set(product(vips, set(usable)))
        flows = {name: its for name, its in served.items() if name.protocol is Protocol.UDP}
        if not flows or not self._begun:
            return
        try:
            await self.mechanism.drop_flows(flows)
        except CommandFailed as error:
            _log.warning("UDP flows to endpoints that are gone stay: %s", error)

    def _wanted(self, desired: DesiredServicePort) -> KernelPort | None:
        """What the kernel is to carry of it: what it carries already, or what an annotation asks for."""
        if self._leaving or not self._begun or self._held(desired):
            return None
        always = desired.options.handoff is Handoff.ALWAYS
        return kernel_port(desired) if always or desired.name in self._carried else None

    async def _put(self, ports: list[KernelPort]) -> None:
        for first in range(0, len(ports), AT_ONCE):
            some = ports[first : first + AT_ONCE]
            try:
                await self.mechanism.put(some, await self._clients_of(some))
            except CommandFailed as error:
                await self._failed(some, error)
                continue
            for port in some:
                if port.name not in self._carried:
                    self._note(port.name, self.mechanism.name, self._reason_of(port.name))
                self._carried[port.name] = port

    async def _clients_of(self, ports: Sequence[KernelPort]) -> Clients:
        """Who is to stay where he is: by the relay for those that it has now, by the kernel where it is to
        remember them for another time."""
        found = dict[ServicePortName, Collection[Pinned]]()
        changed = []
        for port in ports:
            carried = self._carried.get(port.name)
            if port.affinity_timeout_s is None or not self.mechanism.knows_clients:
                continue
            if carried is None:
                found[port.name] = self._ledger.pinned(port.name)
            elif carried.affinity_timeout_s not in (None, port.affinity_timeout_s):
                changed.append(port.name)
        return {**found, **(await self.mechanism.clients(changed) if changed else NOBODY)}

    def _reason_of(self, name: ServicePortName) -> str:
        desired = self._desired.get(name)
        return "handoff: always" if desired and desired.options.handoff is Handoff.ALWAYS else ""

    async def _failed(self, ports: list[KernelPort], error: CommandFailed) -> None:
        """What the kernel would have is out of date: back to the relay."""
        names = [port.name for port in ports]
        _log.warning("%s: stays with the relay: %s", ", ".join(map(str, names[:3])), error)
        await self._take([name for name in names if name in self._carried], f"the kernel refused: {error}")

    async def _take(self, names: list[ServicePortName], why: str = "") -> None:
        if not names:
            return
        try:
            await self._remember(names)
            await self.mechanism.take(names)
        except CommandFailed as error:
            # Others may have flushed the table; a new one has nobody in it.
            _log.warning("the kernel is programmed anew: %s", error)
            for name in names:
                del self._carried[name]
            await self._begin()
            return
        for name in names:
            del self._carried[name]
            if name in self._desired:
                self._note(
                    name, "relay", why or self._held(self._desired[name]) or "no endpoints that it could use"
                )

    async def _remember(self, names: Collection[ServicePortName]) -> None:
        """The relay is to keep the kernel's clients where they are."""
        stay = (name for name in names if name in self._desired)
        sticky = [name for name in stay if self._carried[name].affinity_timeout_s is not None]
        if sticky:
            for name, clients in (await self.mechanism.clients(sticky)).items():
                self._ledger.pin(name, clients)

    def _note(self, name: ServicePortName, path: str, why: str) -> None:
        self.moves["relay" if path == "relay" else "kernel"] += 1
        self._last[name] = Carriage(path, why, self._wall())
        _log.info("%s: new connections go by %s: %s", name, path, why)

    # ---- the watch ----

    async def run(self) -> None:
        """Look at all traffic every second, and move who is to move. For ever."""
        pause_s = TICK_S
        while True:
            await asyncio.sleep(pause_s)
            began_s = self._now()
            await self.look()
            pause_s = max(TICK_S, (self._now() - began_s) * (1 / _LOOKING_SHARE - 1))

    async def look(self) -> None:
        """Count, decide, move, once."""
        async with self._lock:
            if self._leaving:
                return
            if self._begun:
                try:
                    await self._account()
                    for key in await self.mechanism.tend():
                        self._counted.pop(key, None)
                    await self._check()
                except CommandFailed as error:
                    _log.warning("the kernel is programmed anew: %s", error)
                    await self._begin()
                await self._move(await self._rates())
            elif self._why_not and self._is_time_to_check():
                await self._begin()

    async def _check(self) -> None:
        """Raises CommandFailed when somebody has removed what is ours."""
        if self._is_time_to_check() and (lost := await self.mechanism.lost()):
            raise CommandFailed(lost)

    def _is_time_to_check(self) -> bool:
        if self._now() - self._checked_s < CHECK_S:
            return False
        self._checked_s = self._now()
        return True

    async def _account(self) -> None:
        """Add what the kernel has counted to what the relay has."""
        seen = await self.mechanism.look()
        before_all, self._counted = self._counted, dict(seen.counts)
        for key, now in self._counted.items():
            before = before_all.get(key, Counts(0, 0, 0))
            if now != before:
                more = (max(0, one - other) for one, other in zip(now, before, strict=True))
                self._ledger.add(*key, *more)
        self._in_kernel, before_open = seen.open, self._in_kernel
        for name in before_open.keys() | self._in_kernel.keys():
            self._ledger.in_kernel(name, self._in_kernel.get(name, 0))

    async def _rates(self) -> dict[ServicePortName, Rates]:
        """Of those for whom traffic decides."""
        now_s, turns = self._now(), Turns()
        elapsed_s = max(now_s - self._looked_s, 1e-3)
        self._looked_s = now_s
        found = {}
        for name, connections, size in self._ledger.totals():
            was_connections, was_size = self._totals.get(name, (connections, size))
            self._totals[name] = connections, size
            desired = self._desired.get(name)
            if desired is not None and desired.options.handoff is Handoff.AUTO and self._may_move(desired):
                found[name] = Rates(
                    (connections - was_connections) / elapsed_s, max(0, size - was_size) / elapsed_s
                )
            await turns.pause()
        return found

    def _may_move(self, desired: DesiredServicePort) -> bool:
        return desired.name in self._carried or (not self._held(desired) and kernel_port(desired) is not None)

    async def _move(self, rates: Mapping[ServicePortName, Rates]) -> None:
        for move in self._decision.moves(self._now(), rates, self._load()):
            desired = self._desired.get(move.name)
            if desired is None or move.to_kernel == (move.name in self._carried):
                continue
            await (self._to_kernel(move, desired) if move.to_kernel else self._take([move.name], move.why))

    async def _to_kernel(self, move: Move, desired: DesiredServicePort) -> None:
        port = kernel_port(desired)
        try:
            if port is None:
                raise CommandFailed("it has no endpoints")
            await self.mechanism.put([port], await self._clients_of([port]))
        except CommandFailed as error:
            self._decision.failed(move, self._now())
            _log.warning("%s: stays with the relay, though hot (%s): %s", move.name, move.why, error)
            return
        self._carried[move.name] = port
        self._note(move.name, self.mechanism.name, move.why)

    # ---- the end ----

    async def leave(self, timeout_s: float) -> int:
        """Take nothing new, and let the kernel's connections end; how many are left at the timeout."""
        self._leaving = True
        deadline_s = self._now() + timeout_s
        try:
            async with self._lock:
                await self.mechanism.take(self.carried)
                self._carried.clear()
            while left := await self._left():
                if self._now() >= deadline_s:
                    return left
                await asyncio.sleep(_DRAIN_POLL_S)
        except CommandFailed as error:
            _log.warning("connections in the kernel are not waited for: %s", error)
        return 0

    async def _left(self) -> int:
        async with self._lock:
            return sum((await self.mechanism.look()).open.values())
