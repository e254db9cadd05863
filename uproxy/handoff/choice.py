"""Which mechanism hands Services to the kernel on this machine.

Owns the order of preference and the reasons. Programs nothing that stays.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

from uproxy.handoff import iptables, ipvs, ipvs_machine, nftables
from uproxy.handoff.mechanism import Mechanism
from uproxy.kernel.conntrack import Conntrack


class _Known(NamedTuple):
    """A mechanism, without one being made."""

    make: Callable[[Conntrack], Mechanism]
    refusal_here: Callable[[], Awaitable[str | None]]
    remove: Callable[[], Awaitable[list[str]]]


_KNOWN = {
    "nftables": _Known(nftables.NftablesHandoff, nftables.refusal_here, nftables.remove),
    "ipvs": _Known(ipvs.IpvsHandoff, ipvs_machine.refusal_here, ipvs_machine.remove),
    "iptables": _Known(iptables.IptablesHandoff, iptables.refusal_here, iptables.remove),
}
"""The best first."""
MECHANISMS = tuple(_KNOWN)


@dataclass(frozen=True, slots=True)
class Possible:
    """What was found, with a line for the log."""

    mechanism: Mechanism | None
    reason: str
    raw_sockets: bool = False
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
            return Possible(made(name), f"{name} works here", raw_sockets=name != "nftables")
        reasons.append(f"{name}: {refusal}")
    return Possible(None, "; ".join(reasons))


def made(name: str) -> Mechanism:
    """One of MECHANISMS, whether it works here or not."""
    return _KNOWN[name].make(Conntrack())


async def findings() -> list[str]:
    """One line for each mechanism, for `uproxy check`. May load kernel modules, and leaves nothing else."""
    return [f"handoff by {name}: {await _refusal(name, redirects=True) or 'ok'}" for name in MECHANISMS]


async def _refusal(name: str, redirects: bool) -> str | None:
    if name == "ipvs" and not redirects:
        return "needs the capture redirect"
    return await _KNOWN[name].refusal_here()


async def remove(but: str = "") -> list[str]:
    """Remove what any run has left by mechanisms `but` one; returns what was there, in words. Raises
    CommandFailed."""
    return [words for name, known in _KNOWN.items() if name != but for words in await known.remove()]
