"""The policy route of capture `tproxy`: packets that bear its mark are delivered here.

Owns one rule, and one table with one route, for each address family; protocol number 117 and the
table's number mark them as ours. Refuses to know which packets are marked: `tproxy.py` does.
Source: ip-rule(8); the kernel's Documentation/networking/tproxy.rst.
"""

import asyncio
import json
from collections.abc import Iterable, Mapping

from uproxy.errors import CommandFailed
from uproxy.kit.commands import run
from uproxy.model.frontend import Changes
from uproxy.model.names import Family, Vip
from uproxy.steering.programs import peek
from uproxy.steering.routes import ROUTE_PROTOCOL, parse_failures
from uproxy.steering.tproxy import DELIVERY_MARK, DELIVERY_MASK

TABLE = 30064

_FAMILIES: tuple[Family, ...] = (4, 6)
# Before the rules of others: some CNIs lead every packet for a pod away from 512 on (AWS), or 9.
_PRIORITY = 8
_RULE = (
    f"fwmark {DELIVERY_MARK:#x}/{DELIVERY_MASK:#x} priority {_PRIORITY} "
    f"table {TABLE} protocol {ROUTE_PROTOCOL}"
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
    return f"rule {verb} {_RULE}\nroute {verb} {_ROUTE}\n"


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
    if any(rule.get("table") == str(TABLE) for rule in rules):
        return True
    return bool(await peek("ip", f"-{family}", "route", "show", "table", str(TABLE)))
