"""Hot Services and the kernel: the mechanism that was chosen, joined with where traffic is counted."""

import logging
import os
from collections.abc import Callable
from time import monotonic, process_time

from uproxy.app.plan import wall_s
from uproxy.dataplane.ledger import Ledger
from uproxy.dataplane.proxy import Dataplane
from uproxy.errors import CommandFailed
from uproxy.handoff.choice import Possible, choose, remove
from uproxy.handoff.target import KernelPaths
from uproxy.settings import Settings
from uproxy.steering.probe import Capture, Choice, Mechanism

log = logging.getLogger("uproxy")


async def handoff(settings: Settings, choice: Choice) -> Possible:
    """What hands Services over, under the capture chosen."""
    return await choose(
        settings.handoff,
        keeps_address=choice.capture is Capture.TPROXY,
        programs=choice.mechanism is not Mechanism.LOOPBACK,
        redirects=choice.capture is Capture.REDIRECT,
    )


def under(granted: Choice, possible: Possible) -> Possible:
    """What is left of it under the capture that was granted in the end."""
    return Possible(None, granted.reason) if granted.mechanism is Mechanism.LOOPBACK else possible


def kernel_paths(
    possible: Possible, capture: Capture, dataplane: Dataplane, threads: int
) -> KernelPaths | None:
    """The target that keeps the kernel's paths; None where nobody hands over."""
    if possible.mechanism is None:
        return None
    ledger = Ledger(dataplane.ports, dataplane.relay, dataplane.context.now)
    # With capture `bind` the sockets ask who may come, and nobody else does.
    guarded = capture is Capture.REDIRECT
    return KernelPaths(possible.mechanism, ledger, _load_of(threads), monotonic, wall_s, guarded=guarded)


def _load_of(threads: int) -> Callable[[], float]:
    """How busy this process is since it was asked last, where 1 is all CPUs that it can use."""
    cpus = min(threads + 1, len(os.sched_getaffinity(0)))
    used_s, at_s = process_time(), monotonic()

    def load() -> float:
        nonlocal used_s, at_s
        before_s, before_at_s = used_s, at_s
        used_s, at_s = process_time(), monotonic()
        return (used_s - before_s) / max(at_s - before_at_s, 1e-3) / cpus

    return load


async def remove_others(possible: Possible) -> None:
    """Remove what an earlier run has handed over by another mechanism, to endpoints that grow old."""
    ours = possible.mechanism.name if possible.mechanism is not None else ""
    try:
        removed = await remove(but=ours)
    except CommandFailed as error:
        log.warning("what an earlier run has handed over stays: %s", error)
        return
    if removed:
        log.info("removed what an earlier run had handed over: %s", ", ".join(removed))


def say(settings: Settings, possible: Possible) -> None:
    """One line for the log, where handing over was asked for."""
    if settings.handoff == "off":
        return
    if possible.mechanism is None:
        log.warning("handoff: off: %s", possible.reason)
    else:
        log.info("handoff: by %s: %s", possible.mechanism.name, possible.reason)
