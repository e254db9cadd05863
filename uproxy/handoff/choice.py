"""Which mechanism hands Services to the kernel on this machine.

Owns the order of preference and the reasons. Programs nothing that stays.
"""

from dataclasses import dataclass

from uproxy.handoff import nftables
from uproxy.handoff.conntrack import Conntrack
from uproxy.handoff.mechanism import Mechanism

MECHANISMS = ("nftables",)
"""The best first."""


@dataclass(frozen=True, slots=True)
class Possible:
    """What was found, with a line for the log."""

    mechanism: Mechanism | None
    reason: str


NO_HANDOFF = Possible(None, "not asked for")


async def choose(wanted: str, *, keeps_address: bool, programs: bool) -> Possible:
    """The mechanism for `--handoff WANTED`, or none. `keeps_address`: the capture shows endpoints the
    addresses of their clients; `programs`: it programs the kernel at all."""
    if wanted == "off":
        return NO_HANDOFF
    if not programs:
        return Possible(None, "on loopback only, without CAP_NET_ADMIN")
    if keeps_address:
        return Possible(
            None, "with capture tproxy endpoints see their clients' addresses, and would not in the kernel"
        )
    reasons = []
    for name in MECHANISMS if wanted == "auto" else (wanted,):
        refusal = await nftables.refusal_here()
        if refusal is None:
            return Possible(nftables.NftablesHandoff(Conntrack()), f"{name} works here")
        reasons.append(f"{name}: {refusal}")
    return Possible(None, "; ".join(reasons))


async def remove() -> list[str]:
    """Remove what any run has left; returns what was there, in words. Raises CommandFailed."""
    return await nftables.remove()
