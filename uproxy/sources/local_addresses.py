"""The addresses of this machine, as `ip address` tells them, looked up again from time to time.

Asked for only where `nodePortAddresses` says which of them serve NodePorts.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from ipaddress import ip_address

from uproxy.errors import CommandFailed
from uproxy.kit.commands import run
from uproxy.model.events import Event, LocalAddresses, Synced
from uproxy.model.names import IPAddress

NAME = "local addresses"
INTERVAL_S = 10.0

_log = logging.getLogger(__name__)


async def follow(emit: Callable[[Event], None]) -> None:
    """Send them now, and when they have changed, until cancelled."""
    told: tuple[IPAddress, ...] | None = None
    while True:
        found = tuple(sorted(await local_addresses(), key=lambda ip: (ip.version, ip)))
        if told is None or (found and found != told):
            emit(LocalAddresses(found))
        if told is None:
            emit(Synced(NAME))
        told = found or told or ()
        await asyncio.sleep(INTERVAL_S)


async def local_addresses() -> list[IPAddress]:
    """Every address that is not link-local; none, with a line in the log, when `ip` does not tell."""
    try:
        done = (await run("ip", "-json", "address", "show")).check()
    except CommandFailed as error:
        _log.warning("the machine's addresses are not known: %s", error)
        return []
    return parse_addresses(done.stdout)


def parse_addresses(text: str) -> list[IPAddress]:
    """From the JSON of ip-address(8)."""
    found = (info for link in json.loads(text) for info in link.get("addr_info", ()))
    given = [ip_address(info["local"]) for info in found if "local" in info]
    return [ip for ip in given if not ip.is_link_local]
