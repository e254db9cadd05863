"""Which mechanism hands Services to the kernel on this machine.

Owns the order of preference and the reasons. Programs nothing that stays.
"""

from dataclasses import dataclass

from uproxy.handoff import iptables, nftables
from uproxy.handoff.conntrack import Conntrack
from uproxy.handoff.mechanism import Mechanism

MECHANISMS = ("nftables", "iptables")
"""The best first."""


@dataclass(frozen=True, slots=True)
class Possible:
    """What was found, with a line for the log."""

    mechanism: Mechanism | None
    reason: str
    matches_sets: bool = False
    """Whether it has iptables match ipsets, or use the kernel's old interface, which take CAP_NET_RAW."""


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
        refusal = await _refusal(name)
        if refusal is None:
            return Possible(_mechanism(name), f"{name} works here", matches_sets=name == "iptables")
        reasons.append(f"{name}: {refusal}")
    return Possible(None, "; ".join(reasons))


async def _refusal(name: str) -> str | None:
    return await (nftables.refusal_here() if name == "nftables" else iptables.refusal_here())


def _mechanism(name: str) -> Mechanism:
    return (nftables.NftablesHandoff if name == "nftables" else iptables.IptablesHandoff)(Conntrack())


async def remove() -> list[str]:
    """Remove what any run has left; returns what was there, in words. Raises CommandFailed."""
    return [*await nftables.remove(), *await iptables.remove()]
