"""What this machine can do to capture traffic, and the choice among it.

Owns trying each mechanism without touching anything: the complete rules, with an element in
every set, are loaded into a network namespace that is thrown away. Nothing smaller tells the
truth: kernels lack single expressions (fib, redirect, ct status), not nftables as a whole.
"""

import asyncio
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path

from uproxy.errors import CommandFailed, UproxyError
from uproxy.kernel.nft_trial import refusal
from uproxy.kit.commands import find_program, run
from uproxy.kit.netfilter import trial
from uproxy.kit.privileges import Capability, has
from uproxy.kit.programs import complaint, peek
from uproxy.model.names import Family, Protocol, Vip
from uproxy.steering import iptables, lock, nft, pod_links, policy_routes, routes, tproxy
from uproxy.steering.rules import RedirectPorts, Rule, Verdict

OK = "ok"

_FIRST_UNPRIVILEGED_PORT = 1024
_PACKAGES = {"iptables-restore": "iptables", "ipset": "ipset", "ip": "iproute2"}
_PORTS = RedirectPorts(10256, 10257)
_SAMPLE: Mapping[Vip, Rule] = {
    Vip(ip_address(ip), 80 + offset, protocol): Rule(what)
    for ip in ("192.0.2.1", "2001:db8::1", "0.0.0.0", "::")
    for offset, protocol, what in (
        (0, Protocol.TCP, Verdict.REDIRECT),
        (1, Protocol.TCP, Verdict.REJECT),
        (2, Protocol.UDP, Verdict.REJECT),
    )
}

_TPROXY_SAMPLE = {
    **_SAMPLE,
    **{Vip(ip_address(ip), 83, Protocol.UDP): Rule(Verdict.DELIVER) for ip in ("192.0.2.1", "2001:db8::1")},
}
_IP_TRANSPARENT = 19

_POLICY_SCRIPT = 'ip link set lo up && printf %s "$1" | while read -r line; do ip $line || exit; done'
"""IPv4 alone: on a kernel without IPv6, its VIPs are said not to be served."""

# One shell, because all three programs have to meet in the same namespace.
_IPTABLES_SCRIPT = 'printf %s "$1" | ipset restore && printf %s "$2" | "$3" --noflush'


class Capture(StrEnum):
    """How traffic for a VIP gets to the proxy."""

    BIND = "bind"
    REDIRECT = "redirect"
    TPROXY = "tproxy"


class Mechanism(StrEnum):
    """What a capture is done with."""

    NFT = "nft"
    IPTABLES = "iptables"
    LOCAL_ROUTES = "local-routes"
    LO_ADDRESSES = "lo-addresses"
    LOOPBACK = "loopback"


@dataclass(frozen=True, slots=True)
class Probe:
    """What the machine can do. Each field is `ok`, or one line that says why not."""

    net_admin: str
    nft: str
    iptables: str
    ip6tables: str
    """Only tells whether `iptables` serves IPv6 too."""
    tproxy: str
    """Capture `tproxy`, which nftables does."""
    ip: str
    """Local routes, or what stands in for them."""
    lo_addresses: str = ""
    """Why addresses on `lo` have to stand in for local routes; empty where they need not."""
    first_port: int = 0
    """The lowest port that may be listened on; 0 when none is barred."""
    pod_links: str = OK
    """The ways in which Pods are attached, as far as they are known; a warning stands in no capture's way."""

    def lines(self) -> list[str]:
        """One line for each finding, for `uproxy check`."""
        return [
            f"CAP_NET_ADMIN: {self.net_admin}",
            f"nftables: {self.nft}",
            f"iptables and ipset: {self.iptables}",
            f"ip6tables: {self.ip6tables}",
            f"tproxy: {self.tproxy}",
            f"local routes: {self.lo_addresses or self.ip}",
            f"ports below 1024: {OK if not self.first_port else f'from {self.first_port} on only'}",
            f"links of Pods: {self.pod_links}",
        ]


@dataclass(frozen=True, slots=True)
class Choice:
    """The capture taken, and why, in a line fit for the log."""

    capture: Capture
    mechanism: Mechanism
    reason: str


async def probe() -> Probe:
    """Find out what works here. Touches nothing; takes some tens of milliseconds."""
    stand_in = "" if await _knows_local_routes() else "not in this kernel (gVisor?): addresses on lo instead"
    nft_finding, iptables_finding, ip6tables_finding, tproxy_finding, ip_finding = await asyncio.gather(
        _try_nft(), _try_iptables(), _try_ip6tables(), _try_tproxy(), _try_ip(tried=not stand_in)
    )
    return Probe(
        net_admin=_try_net_admin(),
        nft=nft_finding,
        iptables=iptables_finding,
        ip6tables=ip6tables_finding,
        tproxy=tproxy_finding,
        ip=ip_finding,
        lo_addresses=stand_in,
        first_port=_first_port(),
        pod_links=pod_links.warning() or OK,
    )


def choose(requested: str, probe: Probe, mechanism: str = "auto") -> Choice:
    """The capture to use. `requested` is auto, bind, redirect or tproxy; `mechanism` auto, nft or
    iptables. `auto` is never `tproxy`, which changes whom endpoints see.

    Raises UproxyError, with every reason in its one line, when `redirect` or `tproxy` is asked for and
    cannot be had.
    """
    if requested == Capture.TPROXY:
        return _choose_tproxy(probe, mechanism)
    if probe.net_admin != OK:
        return _without_net_admin(requested, probe)
    obstacles = _obstacles(probe, mechanism)
    if requested != Capture.BIND:
        for candidate, obstacle in obstacles.items():
            if not obstacle:
                return Choice(Capture.REDIRECT, candidate, _why_redirect(candidate, probe))
    because = "; ".join(f"{candidate}: {obstacle}" for candidate, obstacle in obstacles.items())
    if requested == Capture.REDIRECT:
        raise UproxyError(f"--capture redirect is not possible here: {because}")
    prefix = "as asked" if requested == Capture.BIND else f"redirect is not possible ({because})"
    return _choose_bind(probe, prefix)


def _without_net_admin(requested: str, probe: Probe) -> Choice:
    because = f"CAP_NET_ADMIN is {probe.net_admin}"
    if requested == Capture.REDIRECT:
        raise UproxyError(f"--capture redirect is not possible here: {because}")
    return Choice(Capture.BIND, Mechanism.LOOPBACK, f"on loopback only, {because}")


def _choose_tproxy(probe: Probe, mechanism: str) -> Choice:
    because = f"CAP_NET_ADMIN is {probe.net_admin}" if probe.net_admin != OK else probe.tproxy
    if mechanism == Mechanism.IPTABLES:
        because = "only nftables does it, and --redirect-mechanism is iptables"
    if because != OK:
        raise UproxyError(f"--capture tproxy is not possible here: {because}")
    return Choice(Capture.TPROXY, Mechanism.NFT, "as asked; endpoints see their clients' addresses")


def has_net_admin() -> bool:
    """Whether this process may change the network: CAP_NET_ADMIN in its effective set, and in the user
    namespace that the network belongs to."""
    return has(Capability.NET_ADMIN) and lock.may_hold()


def _first_port() -> int:
    if has(Capability.NET_BIND_SERVICE):
        return 0
    try:
        return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    except OSError:  # a kernel from before 4.11, or gVisor
        return _FIRST_UNPRIVILEGED_PORT


def _obstacles(probe: Probe, mechanism: str) -> dict[Mechanism, str]:
    """The mechanisms that may redirect, best first, each with what stands against it. ClusterIPs have
    local routes beside the rules."""
    findings = {Mechanism.NFT: probe.nft, Mechanism.IPTABLES: probe.iptables}
    routes_fail = "" if probe.ip == OK else f"no local routes: {probe.ip}"
    if probe.lo_addresses:
        routes_fail = "no local routes in this kernel"
    return {
        candidate: routes_fail if finding == OK else finding
        for candidate, finding in findings.items()
        if mechanism in ("auto", candidate)
    }


def _why_redirect(mechanism: Mechanism, probe: Probe) -> str:
    if mechanism is Mechanism.NFT:
        return "nftables works here"
    limits = "" if probe.ip6tables == OK else f", IPv4 only ({probe.ip6tables})"
    return f"iptables and ipset work here{limits}"


def _choose_bind(probe: Probe, prefix: str) -> Choice:
    if probe.ip != OK:
        return Choice(Capture.BIND, Mechanism.LOOPBACK, f"{prefix}; on loopback, {probe.ip}")
    if probe.lo_addresses:
        return Choice(Capture.BIND, Mechanism.LO_ADDRESSES, f"{prefix}; addresses on lo lead VIPs here")
    return Choice(Capture.BIND, Mechanism.LOCAL_ROUTES, f"{prefix}; local routes lead VIPs here")


def _try_net_admin() -> str:
    if not has(Capability.NET_ADMIN):
        return "not granted: run as root, or grant CAP_NET_ADMIN"
    return OK if lock.may_hold() else lock.NOT_ALLOWED


async def _try_nft() -> str:
    return await asyncio.to_thread(refusal, nft.table(_PORTS, _SAMPLE, ())) or OK


async def _try_tproxy() -> str:
    if missing := _missing("ip"):
        return missing
    try:
        with socket.socket() as trial:
            trial.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
    except OSError as error:
        return f"no transparent sockets: {error.strerror}"
    if reason := await asyncio.to_thread(refusal, tproxy.table(_PORTS, _TPROXY_SAMPLE, ())):
        return reason
    script = ("sh", "-c", _POLICY_SCRIPT, "sh", policy_routes.render_batch("add"))
    finding = await _finding("unshare", "--net", *script)
    # A pod with CAP_NET_ADMIN alone may not make namespaces.
    return OK if finding.startswith("unshare:") else finding


async def _try_iptables() -> str:
    if missing := _missing("iptables-restore", "ipset"):
        return missing
    return await _try_netfilter(4, "iptables-restore")


async def _try_ip6tables() -> str:
    if missing := _missing("iptables-restore", "ipset"):
        return missing
    return await _try_netfilter(6, "ip6tables-restore")


async def _try_netfilter(family: Family, program: str) -> str:
    if not has(Capability.NET_RAW):
        # iptables' set match finds a set's number by a raw socket, in any namespace (seen with 1.8.9).
        return "CAP_NET_RAW is not granted, which iptables needs to match ipsets"
    sample = {vip: what for vip, what in _SAMPLE.items() if vip.family == family}
    sets = iptables.render_sets(sample, (), [family])
    rules = iptables.render_rules(family, _PORTS, saved="")
    readable = ((program.replace("restore", "save"), "-t", "nat"), ("ipset", "list", "-name"))
    return await trial(_IPTABLES_SCRIPT, sets, rules, program, readable=readable) or OK


async def _try_ip(*, tried: bool) -> str:
    if missing := _missing("ip"):
        return missing
    if not has_net_admin():
        return "CAP_NET_ADMIN is not granted"
    if not tried:
        return OK
    try:
        return await routes.try_local_routes() or OK
    except CommandFailed as error:
        return str(error)


async def _knows_local_routes() -> bool:
    """Whether routes have types. gVisor's have none; newer releases of it (seen in 20240729) take a local
    route without a complaint, as one that leads nowhere and cannot be removed, so trying does not tell."""
    found = json.loads(await peek("ip", "-json", "route", "get", "127.0.0.1") or "[]")
    return all(route.get("type") == "local" for route in found)


def _missing(*programs: str) -> str:
    for program in programs:
        if find_program(program) is None:
            return f"{program} is not installed: apt-get install {_PACKAGES[program]}"
    return ""


async def _finding(*argv: str, stdin: str = "") -> str:
    try:
        done = await run(*argv, stdin=stdin)
    except CommandFailed as error:
        return str(error)
    return complaint(done.stderr) if done.status else OK
