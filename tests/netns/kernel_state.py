"""What the kernel of a host holds of all that uproxy may program."""

import re

from uproxy.kit.lab import Host

_COMMANDS = (
    "nft --stateless list ruleset",
    "iptables-save",
    "ip6tables-save",
    "ipset save",
    "ip -4 route show table local",
    "ip -6 route show table local",
    "ip -4 rule",
    "ip -6 rule",
    "ip -4 route show table all protocol 117",
    "ip -6 route show table all protocol 117",
)
_TIMES_AND_COUNTERS = re.compile(r"^#.*\n|\[\d+:\d+\]", re.MULTILINE)


def kernel_state(host: Host) -> str:
    """All rules and sets, local routes, and routes of ours, as the kernel's own tools print them."""
    printed = "".join(host.run(*command.split()).stdout for command in _COMMANDS)
    return _TIMES_AND_COUNTERS.sub("", printed)
