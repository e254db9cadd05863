"""The addresses of this machine, as `ip address` tells them."""

import json
import logging
from ipaddress import ip_address

from uproxy.errors import CommandFailed
from uproxy.kit.commands import run
from uproxy.model.names import IPAddress

_log = logging.getLogger(__name__)


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
