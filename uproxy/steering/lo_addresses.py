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
from ipaddress import IPv6Address, IPv6Network, ip_address, ip_network

from uproxy.errors import CommandFailed
from uproxy.kit.commands import run
from uproxy.kit.programs import peek
from uproxy.model.names import IPAddress, IPNetwork
from uproxy.steering.routes import LocalRoutes, parse_failures

MARKS = IPv6Network("fd75:7072:6f78:7900::/64")
"""A unique local prefix (RFC 4193) that spells `uproxy`; what follows names the address."""

_GONE = "RTNETLINK answers: Cannot assign requested address"


class LoAddresses(LocalRoutes):
    """A target: an address on `lo` for every address that traffic for a frontend `needs`."""

    what = "address on lo"

    async def _add(self, networks: Sequence[IPNetwork]) -> Mapping[IPNetwork, str]:
        there = await _there()
        # One that is there already is this machine's own, and stays so, or an earlier run's.
        missing = [its for its in networks if its.network_address not in there]
        return await _change([(its, [_mark("add", its), _line("add", its)]) for its in missing])

    async def _delete(self, networks: Collection[IPNetwork]) -> Mapping[IPNetwork, str]:
        return await remove_addresses(networks)

    async def _marked(self) -> list[IPNetwork]:
        return await marked_addresses()


def mark_of(ip: IPAddress) -> IPv6Address:
    """The address whose presence says that `ip` is ours."""
    name = blake2b(ip.packed, digest_size=8).digest()
    return IPv6Address(MARKS.network_address.packed[:8] + name)


async def marked_addresses() -> list[IPNetwork]:
    """The addresses that are ours, by their marks."""
    return _ours(await _there())


async def remove_addresses(networks: Collection[IPNetwork]) -> Mapping[IPNetwork, str]:
    """Remove those of `networks` that are ours, and marks of nothing; returns those that stayed, and why."""
    there = await _there()
    ours = [its for its in networks if its in _ours(there)]
    needed = set(map(mark_of, there))
    stray = [ip_network(ip) for ip in there if ip in MARKS and ip not in needed]
    # An address goes before its mark, and comes after it: what is not marked is nobody's to remove.
    steps = [(its, [_line("del", its), _mark("del", its)]) for its in ours]
    return await _change([*steps, *((its, [_line("del", its)]) for its in stray)])


def _ours(there: Collection[IPAddress]) -> list[IPNetwork]:
    return [ip_network(ip) for ip in there if mark_of(ip) in there]


async def _there() -> set[IPAddress]:
    text = await peek("ip", "-json", "address", "show", "dev", "lo")
    return {
        ip_address(address["local"])
        for link in json.loads(text or "[]")
        for address in link.get("addr_info", ())
        if "local" in address
    }


async def _change(steps: Collection[tuple[IPNetwork, list[str]]]) -> Mapping[IPNetwork, str]:
    """Run one batch of `ip address`: for each address, its lines; returns those that one failed for."""
    if not steps:
        return {}
    owners = [its for its, lines in steps for _ in lines]
    try:
        # See `routes`.
        batch = "".join(line for _, lines in steps for line in lines)
        done = await run("ip", "-force", "-batch", "-", stdin=batch)
    except CommandFailed as error:
        return dict.fromkeys(owners, str(error))
    failures = parse_failures(done.stderr).items()
    return {owners[line - 1]: reason for line, reason in failures if reason != _GONE}


def _line(verb: str, network: IPNetwork) -> str:
    return f"address {verb} {network} dev lo\n"


def _mark(verb: str, network: IPNetwork) -> str:
    return _line(verb, ip_network(mark_of(network.network_address)))
