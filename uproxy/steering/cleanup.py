"""Removing whatever any run of uproxy has left on this machine.

Owns nothing but the list of the places; each place knows its own marks: the tables
`inet uproxy` and `bridge uproxy`, names that begin with UPROXY-, routes and rules with protocol 117, and
addresses on `lo` that have a mark beside them.
"""

from uproxy.errors import CommandFailed
from uproxy.steering import iptables, nft
from uproxy.steering.bridges import remove_bridge_table
from uproxy.steering.lo_addresses import marked_addresses, remove_addresses
from uproxy.steering.policy_routes import remove_policy_routes
from uproxy.steering.port_routes import remove_port_routes
from uproxy.steering.probe import has_net_admin
from uproxy.steering.routes import marked_routes, remove_routes, written


async def cleanup() -> list[str]:
    """Remove rules, sets and routes; returns what was there, in words, empty the second time.

    Raises CommandFailed when this process may not look, or something refuses to go.
    """
    require_net_admin()
    return [
        *await remove_rules(),
        *await remove_tproxy(),
        *await remove_port_routes(),
        *await _remove_routes(),
        *await _remove_addresses(),
    ]


def require_net_admin() -> None:
    """Raises CommandFailed when this process may not look."""
    if not has_net_admin():
        raise CommandFailed("looking for leftovers in the kernel needs root (CAP_NET_ADMIN)")


async def remove_rules() -> list[str]:
    """Remove the rules and sets of both mechanisms; returns what was there, in words.

    Raises CommandFailed when something refuses to go.
    """
    return [*await nft.remove(), *await iptables.remove()]


async def remove_tproxy() -> list[str]:
    """Remove what capture `tproxy` has beside rules and local routes; returns what was there, in words.

    Raises CommandFailed when something refuses to go.
    """
    return [*await remove_bridge_table(), *await remove_policy_routes()]


async def _remove_routes() -> list[str]:
    networks = await marked_routes()
    for network, reason in (await remove_routes(networks)).items():
        raise CommandFailed(f"local route of {written(network)} stays: {reason}")
    return [f"local route {written(network)}" for network in networks]


async def _remove_addresses() -> list[str]:
    networks = await marked_addresses()
    for network, reason in (await remove_addresses(networks)).items():
        raise CommandFailed(f"address {written(network)} on lo stays: {reason}")
    return [f"address {written(network)} on lo" for network in networks]
