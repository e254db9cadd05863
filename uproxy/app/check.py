"""`uproxy check`: what `uproxy run` with the same flags would meet on this machine, without programming it.

Owns finding every mistake by which `run` would end within its start, in the words of `run`, which are those
of the parts that it asks. What is bound to find out is let go of at once.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from uproxy.admin.address import Address
from uproxy.admin.http import HttpServers
from uproxy.app.carriers import relay_obstacle
from uproxy.app.handoff import handoff
from uproxy.app.plan import cluster_dns, policy_note, served_plan
from uproxy.app.sources import Emit, cluster_sources, load_manifests
from uproxy.errors import UproxyError
from uproxy.handoff.choice import findings
from uproxy.kit.guests import Guests, Limits
from uproxy.kit.tasks import Tasks
from uproxy.model.events import Event, Upsert
from uproxy.settings import Settings
from uproxy.state.addresses import AddressPlan
from uproxy.state.store import Store
from uproxy.steering.cleanup import require_net_admin
from uproxy.steering.lock import HELD, is_held
from uproxy.steering.probe import Capture, Choice, Mechanism, choose, probe

Say = Callable[[str], None]

_NOBODY = Limits(most=0, most_of_one=0)


async def check(settings: Settings, say: Say) -> None:
    """Tell what there is, line by line. Raises UproxyError with all mistakes, a line for each.

    Without manifests and without a cluster the machine alone is looked at: nothing is a mistake then that
    only concerns a proxy beside another.
    """
    await _Check(settings, say).all()


def check_cleanup(say: Say) -> None:
    """The same for `uproxy cleanup`. Raises UproxyError."""
    require_net_admin()
    if is_held():
        raise UproxyError(HELD)
    say("cleanup: possible; nothing was removed")


class _Check:
    def __init__(self, settings: Settings, say: Say) -> None:
        self._settings = settings
        self._say = say
        self._mistakes: list[str] = []
        self._notes: list[str] = []

    @asynccontextmanager
    async def _trying(self) -> AsyncIterator[None]:
        """Note a mistake, and go on with what is independent of it."""
        try:
            yield
        except UproxyError as error:
            self._mistakes += [line for line in str(error).splitlines() if line not in self._mistakes]

    async def all(self) -> None:
        found = await probe()
        for line in [*found.lines(), *await findings()]:
            self._say(line)
        choice, plan = None, None
        async with self._trying():
            choice = choose(self._settings.capture, found, self._settings.redirect_mechanism)
            self._say(f"capture: {choice.capture} by {choice.mechanism}: {choice.reason}")
            if note := policy_note(choice):
                self._say(note)
            await self._say_handoff(choice)
        if self._settings.files or self._settings.from_cluster:
            if choice is not None:
                async with self._trying():
                    choice = self._beside_others(choice)
                    plan = served_plan(self._settings.service_cidr, choice, found.first_port)
            await self._look_at_the_rest(plan)
        elif is_held():
            self._notes.append(HELD)
        for note in [*self._settings.notes, *self._notes]:
            self._say(f"note: {note}")
        if self._mistakes:
            raise UproxyError("\n".join(self._mistakes))

    async def _say_handoff(self, choice: Choice) -> None:
        if self._settings.handoff != "off":
            possible = await handoff(self._settings, choice)
            by = possible.mechanism.name if possible.mechanism is not None else "off"
            self._say(f"handoff: {by}: {possible.reason}")

    def _beside_others(self, choice: Choice) -> Choice:
        """What would be granted; as `steering` in app/plan.py does it, without taking the lock."""
        if choice.mechanism is Mechanism.LOOPBACK or not is_held():
            if self._settings.take_over:
                self._notes.append("--take-over: there is nobody to wait for, it would start at once")
            return choice
        if self._settings.take_over:
            self._notes.append("--take-over: another uproxy serves this machine, and would be followed")
            return choice
        if choice.capture is not Capture.BIND:
            raise UproxyError(HELD)
        self._notes.append(f"on loopback only, {HELD}")
        return Choice(Capture.BIND, Mechanism.LOOPBACK, f"on loopback only, {HELD}")

    async def _look_at_the_rest(self, plan: AddressPlan | None) -> None:
        async with self._trying():
            if obstacle := relay_obstacle(self._settings):
                raise UproxyError(obstacle)
        async with self._trying():
            if self._settings.from_cluster:
                await self._look_at_cluster()
            else:
                self._look_at_manifests(plan)
        if self._settings.take_over and is_held():
            return  # the addresses are those of whoever is to be followed
        for what, address in self._pages():
            async with self._trying():
                await _serve_for_a_moment(what, address)
        if plan is not None:
            async with self._trying():
                await self._answer_names_for_a_moment(plan)

    async def _look_at_cluster(self) -> None:
        sources = cluster_sources(self._settings, Emit())
        if sources.ready is not None:
            await sources.ready()
        self._say("cluster: there are credentials")

    def _look_at_manifests(self, plan: AddressPlan | None) -> None:
        events: list[Event] = []
        manifests = load_manifests(self._settings, events.append)
        if plan is None:
            return
        for known in manifests.files.objects:
            events.append(Upsert(known))
            manifests.flags.observe(events[-1])
        store = Store(plan)
        store.apply(events)
        self._notes += [f"{port.name}: {note}" for port in store.desired.values() for note in port.notes]
        counted = ", ".join(f"{count} {kind}" for kind, count in sorted(manifests.files.skipped.items()))
        ports = len(store.desired)
        self._say(f"manifests: {ports} Service ports, no mistakes; skipped: {counted or 'nothing'}")

    def _pages(self) -> list[tuple[str, Address]]:
        metrics, health = Address(*self._settings.metrics_address), Address(*self._settings.healthz_address)
        if metrics == health:
            return [("metrics and health", metrics)]
        return [("metrics", metrics), ("health", health)]

    async def _answer_names_for_a_moment(self, plan: AddressPlan) -> None:
        names, tasks = cluster_dns(self._settings, plan), Tasks()
        if names is not None:
            try:
                await names.start(tasks)
            finally:
                await tasks.stop()
                await names.close()


async def _serve_for_a_moment(what: str, address: Address) -> None:
    servers = HttpServers()
    try:
        await servers.serve(what, {}, address, Guests(what, _NOBODY))
    finally:
        await servers.close()
