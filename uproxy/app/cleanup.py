"""Removing whatever any run has left, of capture and of handoff alike."""

from uproxy.handoff import choice
from uproxy.steering import cleanup as steering
from uproxy.steering.kube_proxy import remove_kube_proxy


async def cleanup(*, kube_proxy: bool = False) -> list[str]:
    """Remove all of it, and with `kube_proxy` what kube-proxy has left, too; returns what was there, in
    words, empty the second time. Raises CommandFailed.

    What hands over goes first: without it, everything new is the capture's, which is there still.
    """
    steering.require_net_admin()
    others = await remove_kube_proxy() if kube_proxy else []
    return [*await choice.remove(), *await steering.cleanup(), *others]
