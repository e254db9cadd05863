"""The policy route of capture `tproxy`: packets that bear its mark are delivered here.

Owns two rules, and one table with one route, for each address family; protocol number 117 and the
table's number mark them as ours. Refuses to know which packets are marked: `tproxy.py` does.
Source: ip-rule(8); the kernel's Documentation/networking/tproxy.rst.
"""

import asyncio
import json
from collections.abc import Iterable, Mapping

from uproxy.errors import CommandFailed
from uproxy.kit.commands import run
from uproxy.kit.programs import peek
from uproxy.model.frontend import Changes
from uproxy.model.names import Family, Vip
from uproxy.steering.routes import ROUTE_PROTOCOL, parse_failures
from uproxy.steering.tproxy import DELIVERED, MASK, TURNED_ROUND

TABLE = 30064

_FAMILIES: tuple[Family, ...] = (4, 6)
# Before the rules of others: some CNIs lead packets for pods elsewhere, from priority 9 (Cilium) or 512
# (AWS) on. The first is for a kernel that looks at the mark when it asks where the packet's sender is
# (the sysctl src_valid_mark, which WireGuard needs): it asks as if from lo, and would take the sender
# for one of our own addresses.
_BOTH = MASK & ~(DELIVERED ^ TURNED_ROUND)
_RULES = (
    f"iif lo fwmark {DELIVERED:#x}/{MASK:#x} priority 7 table main protocol {ROUTE_PROTOCOL}",
    f"fwmark {DELIVERED:#x}/{_BOTH:#x} priority 8 table {TABLE} protocol {ROUTE_PROTOCOL}",
)
_ROUTE = f"local default dev lo table {TABLE} protocol {ROUTE_PROTOCOL}"


class PolicyRoutes:
    """A target: the policy route, for as long as there is anything to lead here."""

    def __init__(self) -> None:
        self._failed: Mapping[Family, str] | None = None
        """Families without the route, with the reason; None before the first try."""

    async def make(self, changes: Changes) -> Mapping[Vip, str]:
        """Add what is missing; nothing once all is there."""
        if self._failed is None or self._failed:
            self._failed = await _change("add", _FAMILIES)
        vips = (frontend.vip for port in changes.updated for frontend in port.frontends)
        return {vip: self._failed[vip.family] for vip in vips if vip.family in self._failed}

    async def retire(self, changes: Changes) -> None:
        """It stays to the end."""

    async def prune(self) -> None:
        """What an earlier run left was adopted."""

    async def close(self) -> None:
        """Remove the policy route. Raises CommandFailed when something stays."""
        await remove_policy_routes()
        self._failed = None


async def remove_policy_routes() -> list[str]:
    """Remove those of any run; returns what was there, in words. Raises CommandFailed."""
    there = await asyncio.gather(*map(_is_there, _FAMILIES))
    found = [family for family, known in zip(_FAMILIES, there, strict=True) if known]
    for family, reason in (await _change("del", found)).items():
        raise CommandFailed(f"IPv{family} policy route stays: {reason}")
    return [f"IPv{family} policy route, table {TABLE}" for family in found]


def render_batch(verb: str) -> str:
    """Input for `ip -batch -`."""
    return "".join(
        f"{line}\n" for line in (*(f"rule {verb} {rule}" for rule in _RULES), f"route {verb} {_ROUTE}")
    )


async def _change(verb: str, families: Iterable[Family]) -> Mapping[Family, str]:
    """Add or delete; returns the families that it failed for."""
    failed: dict[Family, str] = {}
    for family in families:
        try:
            done = await run("ip", f"-{family}", "-force", "-batch", "-", stdin=render_batch(verb))
        except CommandFailed as error:
            failed[family] = str(error)
            continue
        for reason in parse_failures(done.stderr).values():
            failed[family] = f"no policy route: {reason}"
    return failed


async def _is_there(family: Family) -> bool:
    rules = json.loads(await peek("ip", "-json", f"-{family}", "rule", "show") or "[]")
    if any(rule.get("protocol") == str(ROUTE_PROTOCOL) for rule in rules):
        return True
    return bool(await peek("ip", f"-{family}", "route", "show", "table", str(TABLE)))
