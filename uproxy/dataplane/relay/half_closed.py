"""How often the peers of a half-closed connection are asked whether they are there.

Owns reading what conntrack's clocks are. A connection that is led here by translation of addresses lives as
long as conntrack remembers it; of one that is half closed that is 60 s after the last packet, by default
(nf_conntrack_tcp_timeout_close_wait), far less than the answer to a long question may take. A keepalive is a
packet, in both directions; so asking often enough keeps it remembered, here and on the way
(docs/decisions/0014-half-closed.md).
"""

from pathlib import Path

_NETFILTER = Path("/proc/sys/net/netfilter")
_CLOCKS = ("nf_conntrack_tcp_timeout_close_wait", "nf_conntrack_tcp_timeout_fin_wait")
_ON_THE_WAY_S = 60
"""What conntrack says by default, on machines that we cannot ask."""
_TIMES = 3
"""One question may be lost, and the next is still in time."""


def ask_every_s(folder: Path = _NETFILTER) -> int:
    """Whole seconds, one at least."""
    shortest_s = min([_ON_THE_WAY_S, *filter(None, (_clock_s(folder / name) for name in _CLOCKS))])
    return max(1, shortest_s // _TIMES)


def _clock_s(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no conntrack, or a kernel that hides it
        return None
