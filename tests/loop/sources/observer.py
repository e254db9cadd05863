"""Events of a source, folded into what they amount to, and a bounded wait on that."""

import asyncio
from collections.abc import Callable

from uproxy.model.events import Delete, Event, Faulted, KubernetesObject, Resolved, Synced, Upsert

PATIENCE_S = 10.0


class Observer:
    """Give `emit` to a source; then look at the attributes, or wait for them to be as they should."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.objects: dict[tuple[str, str], KubernetesObject] = {}
        self.faults: list[str] = []
        self.addresses: dict[str, list[str]] = {}
        self.synced = False

    def emit(self, event: Event) -> None:
        self.events.append(event)
        match event:
            case Upsert(known):
                self.objects[type(known).__name__, str(known.key)] = known
            case Delete(known):
                del self.objects[type(known).__name__, str(known.key)]
            case Faulted(_, faults):
                self.faults = list(map(str, faults))
            case Resolved(host, addresses):
                self.addresses[host] = list(map(str, addresses))
            case Synced():
                self.synced = True

    @property
    def ports(self) -> dict[str, int]:
        """The port of each known Service that has a port, by name."""
        return {known.key.name: known.ports[0].port for known in self.objects.values()}

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when `condition` holds."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110 - conditions look at more than events
                await asyncio.sleep(0.005)
