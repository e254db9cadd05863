"""What IPVS needs beside virtual servers: who comes to it, masquerade, local routes, sysctls.

Owns the sets whose names begin with UPROXY_IPVS, the chains UPROXY_IPVS in `mangle` and `nat`, routes in the
table `local` with protocol 118, and the sysctls below net.ipv4.vs while we are here. Refuses to touch
anything else. The names begin with `UPROXY_`: capture removes whatever begins with `UPROXY-`.

A VIP in the first set is marked like the proxy's own dials, which capture leaves alone, so that it comes to
IPVS; out of the set it is captured as ever, and what IPVS has in hand goes on. The second set is of those:
capture refuses them when their last endpoint goes, but not what is marked. The number of rules is constant.

What the sysctls were is the comment of a rule. So it is there after `kill -9`, goes with the network
namespace that it is about, and needs no file. Sources: ipset(8), iptables-extensions(8), ip-route(8), the
kernel's ipvs-sysctl.rst; kube-proxy's ipvs/proxier.go for the values.
"""

import asyncio
import json
import platform
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from ipaddress import ip_address, ip_network
from pathlib import Path

from uproxy.errors import CommandFailed
from uproxy.handoff.forwarding import not_forwarded
from uproxy.kit import netfilter
from uproxy.kit.commands import run
from uproxy.kit.netfilter import (
    PROGRAM,
    PROXY_MARK,
    census,
    jumps_gone,
    lost_rules,
    remove_chains,
    restore,
    set_sizes,
)
from uproxy.kit.privileges import Capability, has
from uproxy.kit.programs import complaint, execute, peek
from uproxy.model.names import Family, IPAddress, IPNetwork, Vip

ROUTE_PROTOCOL = 118
_METRIC = 118
"""Of its own, so that it can be beside capture's route of the same address."""

FAMILIES: tuple[Family, ...] = (4, 6)
_NAME = "UPROXY_IPVS"
_HERE, _PODS = f"{_NAME}_HERE", f"{_NAME}_PODS"
"""Sets of addresses: of endpoints on this node, and networks of all Pods on it."""
_DESTROY_TRIES, _DESTROY_PAUSE_S = 10, 0.05
_SYSCTLS = Path("/proc/sys/net/ipv4/vs")
_BEFORE = re.compile(r'-m comment --comment "?sysctls before: ([a-z_0-9=, ]*)"?')

# - In `mangle` output capture's guard comes first: what is marked it lets through. So this jump is the last.
# - There only the first packet is marked, since a mark has it routed anew; nobody would refuse the others.
# - The mark tells our connections from those of others who use IPVS. Only the first packet of a connection
#   meets `nat`.
# - Masquerade where answers would not come back here otherwise. Endpoints on this node see who calls, but for
#   the node, other endpoints here (one may call itself) and its Pods: they may be on the same bridge.
#   Where it is not known who they are, everything is masqueraded.
_JUMPS = {
    "mangle": (
        ("-A", "PREROUTING", f"-j {_NAME}"),
        ("-A", "OUTPUT", f"-m conntrack --ctstate NEW -j {_NAME}"),
    ),
    "nat": (("-I", "POSTROUTING", f"-m mark --mark {PROXY_MARK:#x} -m ipvs --ipvs -j {_NAME}"),),
}


class Kind(StrEnum):
    """Sets, one a family."""

    LEADS = _NAME
    """New connections go to IPVS."""
    ENDS = f"{_NAME}_ENDS"
    """New ones do not, and IPVS has some in hand. TCP only."""


def render_sets(families: Iterable[Family], inside: Sequence[IPNetwork]) -> str:
    """Input for `ipset restore`: the sets, empty, but that of the Pods of this node."""
    # 65,536 elements are ipset's default limit, fewer than a large cluster has addresses.
    sets = {Kind.LEADS: "hash:ip,port", Kind.ENDS: "hash:ip,port", _HERE: "hash:ip", _PODS: "hash:net"}
    text = "".join(
        f"create -exist {name}{family} {its} family {'inet' if family == 4 else 'inet6'} "
        f"maxelem 1048576\nflush {name}{family}\n"
        for family in families
        for name, its in sets.items()
    )
    pods = (network for network in inside if network.version in families and network.prefixlen)
    return text + "".join(f"add {_PODS}{network.version} {network}\n" for network in pods)


def render_here(verb: str, ips: Iterable[IPAddress]) -> str:
    """Input for `ipset restore`: `add` or `del` endpoints that run on this node."""
    return "".join(f"{verb} -exist {_HERE}{ip.version} {ip}\n" for ip in ips)


def render_elements(verb: str, kind: Kind, vips: Iterable[Vip]) -> str:
    """Input for `ipset restore`: `add` or `del`."""
    return "".join(
        f"{verb} -exist {kind}{vip.family} {vip.ip},{vip.protocol.lower()}:{vip.port}\n" for vip in vips
    )


def render_rules(family: Family, saved: str, before: Mapping[str, int], inside: Sequence[IPNetwork]) -> str:
    """Input for `iptables-restore --noflush`: chains and jumps, in the place of older ones.

    `saved` is what `iptables-save` prints now, `before` what the sysctls were.
    """
    known = any(network.version == family and network.prefixlen for network in inside)
    here, pods = f"--match-set {_HERE}{family}", f"--match-set {_PODS}{family}"
    others = f"-m addrtype ! --src-type LOCAL -m set ! {here} src -m set ! {pods} src"
    words = ", ".join(f"{name}={value}" for name, value in sorted(before.items()))
    mark = f"-j MARK --set-xmark {PROXY_MARK:#x}/0xffffffff"
    rules = {
        "mangle": [
            f"-m set --match-set {Kind.LEADS}{family} dst,dst {mark}",
            f"-m conntrack --ctstate ESTABLISHED -m set --match-set {Kind.ENDS}{family} dst,dst {mark}",
        ],
        "nat": [
            f'-m comment --comment "sysctls before: {words}"',
            *([f"{others} -m set {here} dst -j RETURN"] if known else []),
            "-j MASQUERADE",
        ],
    }
    lines = []
    for table, jumps in _JUMPS.items():
        lines += [f"*{table}", f":{_NAME} - [0:0]", *jumps_gone(saved, table, _NAME)]
        lines += [f"{verb} {hook} {rule}" for verb, hook, rule in jumps]
        lines += [*(f"-A {_NAME} {rule}" for rule in rules[table]), "COMMIT"]
    return "".join(f"{line}\n" for line in lines)


def parse_before(saved: str) -> dict[str, int]:
    """What the sysctls were before the run that made these rules."""
    found = _BEFORE.search(saved)
    pairs = (word.split("=") for word in found[1].split(", ") if "=" in word) if found else ()
    return {name: int(value) for name, value in pairs}


# ---- the kernel ----


async def program(inside: Sequence[IPNetwork]) -> Mapping[Family, str]:
    """Program sets, empty, rules and sysctls, in the place of older ones. Returns the families that cannot
    be served here, with the reason. Raises CommandFailed when IPv4 cannot."""
    problems: dict[Family, str] = {}
    saved = {4: await execute("iptables-save")}
    try:
        saved[6] = await execute("ip6tables-save")
    except CommandFailed as error:
        problems[6] = str(error)
    # Of an earlier run's values, the first are the machine's own.
    before = {**_read_sysctls(), **parse_before(saved[4])}
    families = [family for family in FAMILIES if family not in problems]
    await execute("ipset", "restore", stdin=render_sets(families, inside))
    for family in families:
        rules = render_rules(family, saved[family], before, inside)
        try:
            await restore(family, rules)
        except CommandFailed as error:
            if family == 4:
                raise
            problems[family] = str(error)
    _write_sysctls(wanted_sysctls(platform.release()))
    if 6 not in problems and (reason := not_forwarded(6)):
        problems[6] = reason
    return problems


async def lost(
    families: Iterable[Family],
    inside: Sequence[IPNetwork],
    leads: Collection[Vip],
    on_node: Collection[IPAddress],
    routed: Collection[IPAddress],
) -> str | None:
    """What is not there any more of rules, elements and routes, in words. Raises CommandFailed."""
    sizes = await set_sizes()
    for family in families:
        wanted = {
            f"{Kind.LEADS}{family}": sum(vip.family == family for vip in leads),
            f"{_HERE}{family}": sum(ip.version == family for ip in on_node),
            f"{_PODS}{family}": sum(one.version == family and one.prefixlen > 0 for one in inside),
        }
        for name, count in wanted.items():
            if sizes.get(name, -1) < count:
                return f"ipset {name} lacks elements"
        rules = census(render_rules(family, "", {}, inside), _NAME)
        if found := await lost_rules(family, rules, _NAME):
            return found
    gone = set(routed) - await routes() if routed else set()
    return f"the local route of {min(gone, key=str)} is gone" if gone else None


async def unprogram() -> list[str]:
    """Undo it, of any run; returns what was there, in words. Raises CommandFailed."""
    removed = []
    for family in FAMILIES:
        saved = await peek(f"{PROGRAM[family]}-save")
        if family == 4 and (before := parse_before(saved)):
            now = _read_sysctls()
            changed = {name: value for name, value in before.items() if now.get(name) not in (value, None)}
            _write_sysctls(changed)
            removed += [f"sysctl net.ipv4.vs.{name}" for name in changed]
        removed += await remove_chains(family, saved, tuple(_JUMPS), _NAME)
    sets = [name for name in (await peek("ipset", "list", "-name")).split() if name.startswith(_NAME)]
    if sets:
        await _destroy(sets)
        removed += [f"ipset {name}" for name in sets]
    return removed


async def _destroy(sets: Collection[str]) -> None:
    """Where iptables is nf_tables, a removed rule holds its sets for a moment longer."""
    text = "".join(f"destroy -exist {name}\n" for name in sets)
    for _ in range(_DESTROY_TRIES):
        try:
            await execute("ipset", "restore", stdin=text)
            return
        except CommandFailed:
            await asyncio.sleep(_DESTROY_PAUSE_S)
    await execute("ipset", "restore", stdin=text)


async def move(*steps: tuple[str, Kind, Collection[Vip]]) -> None:
    """`add` to a set or `del` from it, in this order. Raises CommandFailed; part of it may be done then."""
    text = "".join(render_elements(*step) for step in steps)
    if text:
        await execute("ipset", "restore", stdin=text)


async def here(verb: str, ips: Collection[IPAddress]) -> None:
    """`add` or `del` endpoints that run on this node. Raises CommandFailed."""
    if ips:
        await execute("ipset", "restore", stdin=render_here(verb, ips))


async def trial() -> str | None:
    """Why sets and rules cannot be had here; None when they can. Leaves nothing behind."""
    if not has(Capability.NET_RAW):
        return "CAP_NET_RAW is not granted, which iptables needs to match ipsets"
    script = 'printf %s "$1" | ipset restore && printf %s "$2" | iptables-restore --noflush'
    readable = (("iptables-save", "-t", "mangle"), ("ipset", "list", "-name"))
    pods = (ip_network("192.0.2.0/24"),)
    return await netfilter.trial(
        script, render_sets((4,), pods), render_rules(4, "", {}, pods), readable=readable
    )


def wanted_sysctls(kernel: str) -> dict[str, int]:
    """Below net.ipv4.vs, for this release of Linux."""
    wanted = {"conntrack": 1, "expire_nodest_conn": 1, "expire_quiescent_template": 1}
    found = re.match(r"(\d+)\.(\d+)", kernel)
    # Up to 5.8 a client's port that is used again costs a second, or it
    # goes to an endpoint that is no more (kubernetes/kubernetes#81775); kube-proxy chose the latter.
    if found and (int(found[1]), int(found[2])) < (5, 9):
        wanted["conn_reuse_mode"] = 0
    return wanted


def _read_sysctls() -> dict[str, int]:
    found = {}
    for name in ("conntrack", "expire_nodest_conn", "expire_quiescent_template", "conn_reuse_mode"):
        try:
            found[name] = int((_SYSCTLS / name).read_text())
        except (OSError, ValueError):
            continue
    return found


def _write_sysctls(values: Mapping[str, int]) -> None:
    now = _read_sysctls()
    for name, value in values.items():
        if now.get(name) == value:
            continue  # where they cannot be written, they may be right all the same
        try:
            (_SYSCTLS / name).write_text(str(value))
        except OSError as error:
            raise CommandFailed(f"net.ipv4.vs.{name}: {error.strerror}") from error


# ---- local routes ----


async def route(verb: str, ips: Collection[IPAddress]) -> None:
    """`replace` or `del` local routes: the node takes packets for a VIP as its own. Raises CommandFailed."""
    if not ips:
        return
    tail = f"dev lo table local metric {_METRIC} protocol {ROUTE_PROTOCOL}"
    lines = "".join(f"route {verb} local {ip}/{ip.max_prefixlen} {tail}\n" for ip in sorted(ips, key=str))
    # -force: what is gone already shall not keep the others.
    done = await run("ip", "-force", "-batch", "-", stdin=lines)
    if verb != "del" and done.status:
        raise CommandFailed(f"ip: {complaint(done.stderr)}")


async def routes() -> set[IPAddress]:
    """The addresses that have a local route of ours, of any run."""
    ours = ("table", "local", "protocol", str(ROUTE_PROTOCOL))
    found = set()
    for family in ("-4", "-6"):
        text = await peek("ip", "-json", family, "route", "show", *ours)
        found |= {ip_address(its["dst"]) for its in json.loads(text or "[]")}
    return found
