"""Which mechanism hands Services to the kernel on this machine.

Owns the order of preference and the reasons. Programs nothing that stays.
"""

from dataclasses import dataclass

from uproxy.handoff import iptables, ipvs, nftables
from uproxy.handoff.conntrack import Conntrack
from uproxy.handoff.mechanism import Mechanism

MECHANISMS = ("nftables", "ipvs", "iptables")
"""The best first."""


@dataclass(frozen=True, slots=True)
class Possible:
    """What was found, with a line for the log."""

    mechanism: Mechanism | None
    reason: str
    matches_sets: bool = False
    """Whether it has iptables match ipsets, or use the kernel's old interface, which take CAP_NET_RAW."""


NO_HANDOFF = Possible(None, "not asked for")


async def choose(wanted: str, *, keeps_address: bool, programs: bool, redirects: bool) -> Possible:
    """The mechanism for `--handoff WANTED`, or none. `keeps_address`: the capture shows endpoints the
    addresses of their clients; `programs`: it programs the kernel at all; `redirects`: by rules, which a
    mark keeps away."""
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
        refusal = await _refusal(name, redirects)
        if refusal is None:
            return Possible(_mechanism(name), f"{name} works here", matches_sets=name != "nftables")
        reasons.append(f"{name}: {refusal}")
    return Possible(None, "; ".join(reasons))


async def findings() -> list[str]:
    """One line for each mechanism, for `uproxy check`. May load kernel modules, and leaves nothing else."""
    return [f"handoff by {name}: {await _refusal(name, redirects=True) or 'ok'}" for name in MECHANISMS]


async def _refusal(name: str, redirects: bool) -> str | None:
    match name:
        case "nftables":
            return await nftables.refusal_here()
        case "iptables":
            return await iptables.refusal_here()
        case _:
            return await ipvs.refusal_here() if redirects else "needs the capture redirect"


def _mechanism(name: str) -> Mechanism:
    match name:
        case "nftables":
            return nftables.NftablesHandoff(Conntrack())
        case "iptables":
            return iptables.IptablesHandoff(Conntrack())
        case _:
            return ipvs.IpvsHandoff()


async def remove(but: str = "") -> list[str]:
    """Remove what any run has left by mechanisms `but` one; returns what was there, in words. Raises
    CommandFailed."""
    removals = {"nftables": nftables.remove, "ipvs": ipvs.remove, "iptables": iptables.remove}
    return [words for name, removal in removals.items() if name != but for words in await removal()]
