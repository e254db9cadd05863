"""`uproxy dns` and `uproxy resolve`: the names of Services, without proxying them.

Owns nothing of its own: it puts sources, the store and cluster DNS together, as `app` does for a
running proxy. Addresses that a manifest leaves out are the ones that `uproxy run` would give.
"""

import asyncio
from functools import partial
from time import monotonic

from uproxy.app.plan import cluster_dns, new_store, wall_s
from uproxy.app.sources import Emit, Sources, cluster_sources, load_manifests
from uproxy.dns.explain import explain
from uproxy.dns.pods import PodMode
from uproxy.dns.wire import Malformed, from_text
from uproxy.dns.zone import Zone
from uproxy.errors import UproxyError
from uproxy.kit import endings, heap
from uproxy.kit.orphans import look_after_orphans
from uproxy.kit.printable import printable
from uproxy.kit.privileges import no_new_privileges
from uproxy.kit.tasks import Tasks
from uproxy.model.events import Event, Upsert
from uproxy.reconcile.loop import ReconcileLoop
from uproxy.settings import Settings
from uproxy.state.addresses import AddressPlan


async def serve_names(settings: Settings, plan: AddressPlan) -> None:
    """Answer names until told to stop. Raises UproxyError when it cannot."""
    no_new_privileges()
    emit = Emit()
    dns = emit.names = cluster_dns(settings, plan)
    if dns is None:
        raise UproxyError("--dns: give at least one address, such as 127.0.0.1:5353")
    sources = _sources(settings, emit)
    reconcile = ReconcileLoop(new_store(settings, plan), [dns], sources.names, monotonic, wall_s)
    emit.target = reconcile
    tasks = Tasks()
    await dns.start(tasks)
    look_after_orphans(tasks)
    try:
        tasks.start("reconcile", reconcile.run())
        tasks.start("settle", _settle_when(reconcile.programmed))
        for name, run in sources.tasks.items():
            tasks.start(name, run())
        await _until_stopped(tasks)
        await dns.drain(settings.drain_timeout_s)
    finally:
        await tasks.stop()
        await dns.close()


async def _settle_when(programmed: asyncio.Event) -> None:
    await programmed.wait()
    heap.settle()


def _sources(settings: Settings, emit: Emit) -> Sources:
    if settings.from_cluster:
        return cluster_sources(settings, emit)
    return load_manifests(settings, emit).sources()


async def _until_stopped(tasks: Tasks) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    with endings.telling(partial(loop.call_soon_threadsafe, stop.set)):
        stopped = loop.create_task(stop.wait())
        await asyncio.wait((stopped, tasks.failed), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
    if tasks.failed.done():
        raise tasks.failed.result()


def resolve(settings: Settings, plan: AddressPlan, name: str, namespace: str) -> list[str]:
    """What would be answered for a name, in lines. Raises UproxyError for what is no name."""
    events: list[Event] = []
    manifests = load_manifests(settings, events.append)
    for known in manifests.files.objects:
        events.append(Upsert(known))
        manifests.flags.observe(events[-1])
    try:
        zone = Zone(from_text(settings.cluster_domain), PodMode(settings.dns_pods))
    except Malformed as error:
        raise UproxyError(f"{settings.cluster_domain!r} cannot be a cluster domain: {error}") from error
    zone.apply(events, new_store(settings, plan).apply(events))
    return [printable(line) for line in explain(zone, name, namespace)]
