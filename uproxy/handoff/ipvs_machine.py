"""IPVS on this machine, whoever runs: whether it can carry Services, and the end of what any run has left.

Owns both answers, for the command line and for the mechanism's own end. Refuses to know what is programmed
now (`ipvs.py`).
"""

import asyncio

from uproxy.errors import CommandFailed
from uproxy.handoff import ipvs_rules
from uproxy.handoff.forwarding import not_forwarded
from uproxy.kernel.ipvs import Ipvs, delete_server
from uproxy.kit.commands import run


async def refusal_here() -> str | None:
    """Why this machine cannot do it; None when it can. May load kernel modules, and leaves nothing else."""
    if reason := not_forwarded(4):
        return reason
    return await ipvs_rules.trial() if await is_here() else "the kernel has no IPVS (module ip_vs)"


async def is_here() -> bool:
    """Whether the kernel has it. May load its modules."""
    ipvs = Ipvs()
    try:
        await asyncio.to_thread(ipvs.servers)
    except OSError:
        try:
            await run("modprobe", "--quiet", "ip_vs")
            await asyncio.to_thread(ipvs.servers)
        except (OSError, CommandFailed):
            return False
    finally:
        ipvs.close()
    return True


async def remove() -> list[str]:
    """Remove what any run has left; returns what was there, in words. Raises CommandFailed."""
    removed = await asyncio.to_thread(_remove_servers)
    routes = await ipvs_rules.routes()
    await ipvs_rules.route("del", routes)
    removed += [f"local route {ip}" for ip in sorted(routes, key=str)]
    return [*removed, *await ipvs_rules.unprogram()]


def _remove_servers() -> list[str]:
    ipvs = Ipvs()
    try:
        vips = list(ipvs.servers())
    except OSError:
        return []  # a kernel without IPVS
    try:
        ipvs.change([delete_server(vip) for vip in vips])
    except OSError as error:
        raise CommandFailed(f"ipvs: {error.strerror}") from error
    finally:
        ipvs.close()
    return [f"virtual server {vip}" for vip in vips]
