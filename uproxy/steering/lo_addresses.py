"""Addresses on `lo`, in the place of local routes where the kernel has no such routes: gVisor.

Owns the addresses beside which there is a mark, and the marks: IPv6 addresses on `lo`, too, of a prefix of
our own. gVisor keeps no label, no protocol number and no lifetime of an address, and a record in a file would
be gone with the container, while the addresses stay as long as the Pod. Refuses to touch any other address,
and to serve a kernel that has local routes: a real address is answered for by ARP, is listed among the
machine's own, and may be chosen as a source. Source: ip-address(8); gVisor's netstack, which takes
RTM_NEWADDR, and RTM_NEWROUTE in newer releases, but keeps neither a route's type nor its table and protocol.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b
from ipaddress import IPv6Address, IPv6Network, ip_address

from uproxy.errors import CommandFailed
from uproxy.kit.commands import run
from uproxy.kit.programs import peek
from uproxy.model.names import IPAddress
from uproxy.steering.routes import LocalRoutes, parse_failures

MARKS = IPv6Network("fd75:7072:6f78:7900::/64")
"""A unique local prefix (RFC 4193) that spells `uproxy`; what follows names the address."""

_GONE = "RTNETLINK answers: Cannot assign requested address"


class LoAddresses(LocalRoutes):
    """A target: an address on `lo` for every address that `wants` asks for."""

    what = "address on lo"

    async def _add(self, ips: Sequence[IPAddress]) -> Mapping[IPAddress, str]:
        there = await _there()
        # One that is there already is this machine's own, and stays so, or an earlier run's.
        return await _change(
            [(ip, _line("add", mark_of(ip)), _line("add", ip)) for ip in ips if ip not in there]
        )

    async def _delete(self, ips: Collection[IPAddress]) -> Mapping[IPAddress, str]:
        return await remove_addresses(ips)

    async def _marked(self) -> list[IPAddress]:
        return await marked_addresses()


def mark_of(ip: IPAddress) -> IPv6Address:
    """The address whose presence says that `ip` is ours."""
    name = blake2b(ip.packed, digest_size=8).digest()
    return IPv6Address(MARKS.network_address.packed[:8] + name)


async def marked_addresses() -> list[IPAddress]:
    """The addresses that are ours, by their marks."""
    there = await _there()
    return [ip for ip in there if mark_of(ip) in there]


async def remove_addresses(ips: Collection[IPAddress]) -> Mapping[IPAddress, str]:
    """Remove those of `ips` that are ours, and marks of nothing; returns those that stayed, and why."""
    there = await _there()
    ours = [ip for ip in ips if ip in there and mark_of(ip) in there]
    needed = {mark_of(ip) for ip in there.difference(ours)}
    stray = [ip for ip in there if ip in MARKS and ip not in needed.union(map(mark_of, ours))]
    # An address goes before its mark, and comes after it: what is not marked is nobody's to remove.
    lines = [(ip, _line("del", ip), _line("del", mark_of(ip))) for ip in ours]
    return await _change([*lines, *((ip, _line("del", ip), "") for ip in stray)])


async def _there() -> set[IPAddress]:
    text = await peek("ip", "-json", "address", "show", "dev", "lo")
    return {
        ip_address(address["local"])
        for link in json.loads(text or "[]")
        for address in link.get("addr_info", ())
        if "local" in address
    }


async def _change(steps: Collection[tuple[IPAddress, str, str]]) -> Mapping[IPAddress, str]:
    """Run one batch of `ip address`: for each address, two lines; returns those that a line failed for."""
    if not steps:
        return {}
    owners = [ip for ip, *lines in steps for line in lines if line]
    batch = "".join(line for _, *lines in steps for line in lines)
    try:
        # See `routes`.
        done = await run("ip", "-force", "-batch", "-", stdin=batch)
    except CommandFailed as error:
        return dict.fromkeys(owners, str(error))
    failures = parse_failures(done.stderr).items()
    return {owners[line - 1]: reason for line, reason in failures if reason != _GONE}


def _line(verb: str, ip: IPAddress) -> str:
    return f"address {verb} {ip}/{ip.max_prefixlen} dev lo\n"
