"""Whether this node passes packets on, which every translation in the kernel needs."""

from pathlib import Path

from uproxy.model.names import Family

_PATHS: dict[Family, str] = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}


def not_forwarded(family: Family) -> str | None:
    """Why it does not; None when it does."""
    path = _PATHS[family]
    try:
        if Path("/proc/sys", path).read_text().strip() == "0":
            return f"IPv{family} packets are not forwarded ({path.replace('/', '.')} is 0)"
    except OSError as error:
        return f"{path.replace('/', '.')}: {error.strerror}"
    return None
