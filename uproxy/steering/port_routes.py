"""Routes for single ports: the node takes what comes for a VIP's port as its own, and nothing else that comes
for that address.

Owns rules of priority 6 that lead to the table 30065, that table's routes, and one address, all with protocol
number 119. Refuses to touch any other, and to decide which VIPs need one: its caller does. An external
address may be another machine's, the API server's, or a Pod's: whoever may write a Service names it. With a
local route of its own the whole address would be this node's, its programs would answer there, and so would
ARP.

The rule sees ports, so of what comes in pieces it finds the first only, unless netfilter's connection
tracking has put it together. Whatever is routed is held against all rules, so they should be few. Linux 4.17
or later. Sources: ip-rule(8); fib_rules.c, route.c.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from uproxy.errors import CommandFailed
from uproxy.kit.commands import run
from uproxy.kit.programs import peek
from uproxy.model.frontend import Changes, DesiredServicePort, Frontend
from uproxy.model.names import Family, Protocol, ServicePortName, Vip
from uproxy.model.node import OWN_SOURCE
from uproxy.steering.routes import parse_failures

PROTOCOL, TABLE, PRIORITY = 119, 30065, 6
_FAMILIES: tuple[Family, ...] = (4, 6)
# What the node itself sends needs a source that is its own: of IPv4 the kernel would take the VIP, and then
# refuse it. Not one of loopback's, which no translation leads out again; IPv6 finds one of the node's.
_ROUTES: Mapping[Family, Sequence[str]] = {
    4: (
        f"local {OWN_SOURCE} dev lo table local protocol {PROTOCOL}",
        f"local default dev lo table {TABLE} protocol {PROTOCOL} src {OWN_SOURCE}",
    ),
    6: (f"local default dev lo table {TABLE} protocol {PROTOCOL}",),
}


class PortRoutes:
    """A target: a rule for every VIP that `wants` asks for. Each belongs to one Service port at a time."""

    def __init__(self, wants: Callable[[DesiredServicePort, Frontend], bool]) -> None:
        self._wants = wants
        self._held: dict[ServicePortName, frozenset[Vip]] = {}
        self._there: set[Vip] = set()
        self._begun: set[Family] = set()

    async def make(self, changes: Changes) -> Mapping[Vip, str]:
        """Add the rules that are missing; one run of `ip` for each family, or none."""
        wanted: set[Vip] = set()
        for port in changes.updated:
            vips = self._vips(port)
            wanted |= vips
            # What it held before stays held until `retire`: traffic may still come for it.
            self._hold(port.name, vips | self._held.get(port.name, frozenset()))
        failed: dict[Vip, str] = {}
        for family in _FAMILIES:
            missing = [vip for vip in wanted - self._there if vip.family == family]
            failed |= await self._add(family, missing) if missing else {}
        self._there |= wanted - failed.keys()
        return failed

    async def _add(self, family: Family, vips: Sequence[Vip]) -> Mapping[Vip, str]:
        if family not in self._begun:
            reasons = await _batch(family, [f"route replace {route}" for route in _ROUTES[family]])
            if reasons:
                return dict.fromkeys(vips, f"no route for ports: {next(iter(reasons.values()))}")
            self._begun.add(family)
        failures = await _batch(family, [f"rule add {_rule(vip)}" for vip in vips])
        return {vips[line - 1]: f"no rule for its port: {reason}" for line, reason in failures.items()}

    async def retire(self, changes: Changes) -> None:
        """Remove the rules that nobody has a use for any more; one run of `ip` for each family, or none."""
        for name in changes.removed:
            self._hold(name, frozenset())
        for port in changes.updated:
            self._hold(port.name, self._vips(port))
        if self._there:
            held = frozenset[Vip]().union(*self._held.values())
            gone = self._there - held
            await _remove(gone)
            self._there -= gone
            await self._end()

    async def _end(self) -> None:
        """Where no rule leads to the routes any more, they go too."""
        used = {vip.family for vip in self._there}
        for family in self._begun - used:
            if not await _batch(family, [f"route del {route}" for route in _ROUTES[family]]):
                self._begun.discard(family)

    async def prune(self) -> None:
        """Remove rules that an earlier run left and no Service port has a use for."""
        await _remove(await _marked() - self._there)

    async def close(self) -> None:
        """Remove every rule and route of ours. Raises CommandFailed when something stays."""
        await remove_port_routes()
        self._there.clear()
        self._begun.clear()

    def _hold(self, name: ServicePortName, vips: frozenset[Vip]) -> None:
        if vips:
            self._held[name] = vips
        else:
            self._held.pop(name, None)

    def _vips(self, port: DesiredServicePort) -> frozenset[Vip]:
        vips = (frontend.vip for frontend in port.frontends if self._wants(port, frontend))
        return frozenset(vip for vip in vips if not vip.ip.is_loopback and not vip.is_node_port)


async def remove_port_routes() -> list[str]:
    """Remove those of any run; returns what was there, in words. Raises CommandFailed."""
    vips = await _marked()
    for vip, reason in (await _remove(vips)).items():
        raise CommandFailed(f"the rule for {vip} stays: {reason}")
    removed = [f"rule for {vip}" for vip in sorted(vips, key=str)]
    for family in _FAMILIES:
        if await peek("ip", f"-{family}", "route", "show", "table", "all", "protocol", str(PROTOCOL)):
            for reason in (await _batch(family, [f"route del {its}" for its in _ROUTES[family]])).values():
                raise CommandFailed(f"IPv{family} table {TABLE} stays: {reason}")
            removed.append(f"IPv{family} routes for ports, table {TABLE}")
    return removed


def _rule(vip: Vip) -> str:
    its = f"to {vip.ip}/{vip.ip.max_prefixlen} ipproto {vip.protocol.lower()} dport {vip.port}"
    return f"{its} priority {PRIORITY} table {TABLE} protocol {PROTOCOL}"


async def _remove(vips: Collection[Vip]) -> Mapping[Vip, str]:
    failed: dict[Vip, str] = {}
    for family in _FAMILIES:
        some = [vip for vip in vips if vip.family == family]
        failures = await _batch(family, [f"rule del {_rule(vip)}" for vip in some])
        failed |= {some[line - 1]: reason for line, reason in failures.items()}
    return failed


async def _batch(family: Family, lines: Sequence[str]) -> Mapping[int, str]:
    """Run them all; returns the numbers of those that failed, from 1, with the reasons."""
    if not lines:
        return {}
    try:
        text = "".join(f"{line}\n" for line in lines)
        done = await run("ip", f"-{family}", "-force", "-batch", "-", stdin=text)
    except CommandFailed as error:
        return dict.fromkeys(range(1, len(lines) + 1), str(error))
    return parse_failures(done.stderr)


async def _marked() -> set[Vip]:
    """Those that have a rule of ours, of any run."""
    found: set[Vip] = set()
    for family in _FAMILIES:
        rules = json.loads(await peek("ip", "-json", f"-{family}", "rule", "show") or "[]")
        found |= set(parse_rules(rules))
    return found


def parse_rules(rules: Iterable[Mapping[str, Any]]) -> Iterable[Vip]:
    """Of what `ip -json rule show` prints, the VIPs that rules of ours are for."""
    for rule in rules:
        if rule.get("protocol") == str(PROTOCOL) and "dport" in rule:
            yield Vip(ip_address(rule["dst"]), int(rule["dport"]), Protocol(str(rule["ipproto"]).upper()))
