"""Events in, targets brought in line: the one place where a change becomes programming.

Owns the order of targets, the retry of what failed, and that nothing is programmed before
every source has delivered its first complete list, nor while it is held. Refuses to know what
targets program.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from uproxy.kit.histogram import Histogram
from uproxy.kit.turns import Turns
from uproxy.model.events import Event, Synced
from uproxy.model.frontend import Changes, DesiredServicePort
from uproxy.model.names import Family, IPNetwork, ServicePortName, Vip
from uproxy.reconcile.news import News
from uproxy.reconcile.record import Record
from uproxy.reconcile.target import Target
from uproxy.state.store import Store

RETRY_FIRST_S = 1.0
RETRY_MAX_S = 30.0
# kube-proxy's sync_proxy_rules_duration_seconds buckets: 1 ms doubled 15 times.
PROGRAMMING_BUCKETS_S = tuple(0.001 * 2**power for power in range(15))


class ReconcileLoop:
    """Keeps `targets` in line with `store`."""

    def __init__(
        self,
        store: Store,
        targets: Sequence[Target],
        sources: frozenset[str],
        now: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        """`now` is monotonic, `wall` gives Unix time; both in seconds."""
        self.store = store
        self.record = Record(wall)
        self.programmed = asyncio.Event()
        """Set after the first complete programming of which anything came about: from then on this proxy
        is ready."""
        self.prepared = asyncio.Event()
        """Set once everything is known, and only programming is left to do, while that is held."""
        self.problems: dict[ServicePortName, dict[Vip, str]] = {}
        """Addresses that could not be programmed, with the reason; asked for again later."""
        self.duration = Histogram(PROGRAMMING_BUCKETS_S)
        self._inbox_since_s: float | None = None
        self._programming_since_s: float | None = None
        self._targets = targets
        self._awaited = set(sources)
        self._now = now
        self._inbox: list[Event] = []
        self._wake = asyncio.Event()
        self._retry_s = RETRY_FIRST_S
        self._retry_at_s: float | None = None
        """When what failed is tried again; None while nothing has."""
        self._news = News()
        self._held = False
        self._behind = False
        """Whether targets do not know what came while it was held."""
        self._inside: tuple[IPNetwork, ...] | None = None
        self._round = asyncio.Lock()

    @property
    def queued_since_s(self) -> float | None:
        """When the oldest event that is not programmed yet came in; None when all are."""
        return self._inbox_since_s if self._programming_since_s is None else self._programming_since_s

    def emit(self, event: Event) -> None:
        """Take an event from a source."""
        if self._inbox_since_s is None:
            self._inbox_since_s = self._now()
        self._inbox.append(event)
        self.record.queued(event)
        if isinstance(event, Synced):
            self._awaited.discard(event.source)
        if not self._awaited:
            self._wake.set()

    def hold(self) -> None:
        """From the next round on, only take note of what comes, until `resume`."""
        self._held = True

    async def at_rest(self) -> None:
        """Hold, and wait until what is being programmed is: no target does anything afterwards."""
        self.hold()
        async with self._round:
            pass

    def resume(self) -> None:
        """Program everything that is known by now, as soon as all of it is."""
        self._held = False
        if not self._awaited:
            self._wake.set()

    async def run(self) -> None:
        """Reconcile for ever. Whatever escapes from here is a bug."""
        while True:
            await self._wait()
            async with self._round:
                await (self._take_note() if self._held else self._reconcile())

    def _take_inbox(self) -> list[Event]:
        events, self._inbox = self._inbox, []
        self._programming_since_s, self._inbox_since_s = self._inbox_since_s, None
        self._wake.clear()
        return events

    async def _take_note(self) -> None:
        changes = await self._apply(self._take_inbox())
        self._inside = self._inside if changes.inside is None else changes.inside
        self._behind = True
        self._programming_since_s = None
        self.prepared.set()

    async def _reconcile(self) -> None:
        events = self._take_inbox()
        started_s = self._now()
        self.record.begun(events, self.store.known_slice)
        changes = self._with_retries(self._with_what_was_held(await self._apply(events)))
        self._news.of_faults(self.store.faults)
        self._news.of_changes(changes)
        await self._program(changes)
        self.record.programmed({name.service for name in self.problems})
        if events:
            self.duration.record(self._now() - started_s)
        self._programming_since_s = None
        if not self.programmed.is_set() and self.works():
            for target in self._targets:
                await target.prune()
            self.programmed.set()

    def _with_what_was_held(self, changes: Changes) -> Changes:
        """Everything, where targets know nothing yet; held once they knew something, it is not resumed."""
        if not self._behind:
            return changes
        self._behind = False
        inside = self._inside if changes.inside is None else changes.inside
        return Changes(tuple(self.store.desired.values()), (), inside)

    async def _wait(self) -> None:
        """Until events have come, or it is time to try again what failed."""
        if self._retry_at_s is None:
            await self._wake.wait()
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), max(0.0, self._retry_at_s - self._now()))

    async def _apply(self, events: Iterable[Event]) -> Changes:
        """What the events change. There may be thousands, at first and when the node changes."""
        turns, steps = Turns(), self.store.applying(events)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                changes: Changes = done.value
                return changes
            await turns.pause()

    def _with_retries(self, changes: Changes) -> Changes:
        """`changes`, and, when it is time, once more whatever failed before and is still wanted."""
        if self._retry_at_s is None or self._now() < self._retry_at_s:
            return changes
        self._retry_at_s = None
        fresh = {desired.name for desired in changes.updated}
        again: list[DesiredServicePort] = [
            self.store.desired[name]
            for name in self.problems
            if name not in fresh and name in self.store.desired
        ]
        return Changes((*changes.updated, *again), changes.removed, changes.inside)

    async def _program(self, changes: Changes) -> None:
        found: dict[Vip, list[str]] = {}
        for target in self._targets:
            for vip, reason in (await target.make(changes)).items():
                found.setdefault(vip, []).append(reason)
        for target in reversed(self._targets):
            await target.retire(changes)
        self._note(changes, found)

    def _note(self, changes: Changes, found: Mapping[Vip, list[str]]) -> None:
        """Of one address every target may have something to say; the first is the cause, mostly."""
        fresh = {desired.name for desired in changes.updated}
        self.problems = {
            name: vips
            for name, vips in self.problems.items()
            if name in self.store.desired and name not in fresh
        }
        for desired in changes.updated:
            mine = {f.vip: "; ".join(found[f.vip]) for f in desired.frontends if f.vip in found}
            if mine:
                self.problems[desired.name] = mine
        self._news.of_problems(self.problems)
        self._news.of_standstill(stands=not self.works())
        if not self.problems:
            self._retry_s, self._retry_at_s = RETRY_FIRST_S, None
        elif self._retry_at_s is None:
            self._retry_at_s = self._now() + self._retry_s
            self._retry_s = min(self._retry_s * 2, RETRY_MAX_S)

    def works(self, family: Family | None = None) -> bool:
        """Whether anything that is wanted is in force, of one family or of both; also when nothing is
        wanted."""
        if not self.problems:
            return True
        wanted = 0
        for desired in self.store.desired.values():
            troubled = self.problems.get(desired.name, {})
            for frontend in desired.frontends:
                if family in (None, frontend.vip.family):
                    if frontend.vip not in troubled:
                        return True
                    wanted += 1
        return not wanted
