"""What the kernel of a host holds of all that uproxy may program."""

import re
import socket
import struct

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
    "ip -4 route show table all protocol 119",
    "ip -6 route show table all protocol 119",
)
_ACCOUNTING = "/proc/sys/net/netfilter/nf_conntrack_acct"
"""Not there before conntrack is."""
_TIMES_AND_COUNTERS = re.compile(r"^#.*\n|\[\d+:\d+\]", re.MULTILINE)


def kernel_state(host: Host) -> str:
    """All rules and sets, local routes, and routes of ours, as the kernel's own tools print them; and what
    may be switched on."""
    printed = "".join(host.run(*command.split()).stdout for command in _COMMANDS)
    accounting = host.run("cat", _ACCOUNTING, check=False).stdout or "0\n"
    return f"{_TIMES_AND_COUNTERS.sub('', printed)}accounting: {accounting}"


_NETLINK_NETFILTER = 12
_GET_GENERATION = 10 << 8 | 16
_REQUEST = 1


def nft_generation(host: Host) -> int:
    """How often the rules of a host have been changed, by anybody, in whatever way (NFT_MSG_GETGEN)."""

    def ask() -> bytes:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as sock:
            sock.bind((0, 0))
            sock.send(struct.pack("=IHHIIBBH", 20, _GET_GENERATION, _REQUEST, 1, 0, 0, 0, 0))
            return sock.recv(4096)

    # After both headers and the head of the first attribute, NFTA_GEN_ID.
    return int.from_bytes(host.inside(ask)[24:28], "big")
