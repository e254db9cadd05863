"""Removing whatever any run has left, of capture and of handoff alike."""

from uproxy.handoff import choice
from uproxy.steering import cleanup as steering


async def cleanup() -> list[str]:
    """Remove all of it; returns what was there, in words, empty the second time. Raises CommandFailed.

    What hands over goes first: without it, everything new is the capture's, which is there still.
    """
    steering.require_net_admin()
    return [*await choice.remove(), *await steering.cleanup()]
