"""Whether conntrack counts the packets and bytes of each connection: on, while Services are handed over.

Owns the sysctl net.netfilter.nf_conntrack_acct of this network namespace. What it was stands in a comment of
the rules that carry Services (`note`), so it is known after `kill -9`, and goes with the network namespace
that it is about. Refuses to write such rules.
"""

import logging
import re
from pathlib import Path

_SWITCH = Path("/proc/sys/net/netfilter/nf_conntrack_acct")
_BEFORE = re.compile(r"accounting before: ([01])")

_log = logging.getLogger(__name__)


def note(before: bool) -> str:
    """The comment of a rule."""
    return f"accounting before: {before:d}"


def before(rules: str) -> bool | None:
    """What it was before the run that has made these rules; None where none has."""
    found = _BEFORE.search(rules)
    return found[1] == "1" if found else None


def own(rules: str) -> bool:
    """What it is without us: of what earlier runs found, the first is the machine's own."""
    its = before(rules)
    return is_on() if its is None else its


def is_on() -> bool:
    """Also without conntrack it is not."""
    try:
        return _SWITCH.read_text().strip() == "1"
    except OSError:
        return False


def switch_on() -> None:
    """Where it cannot be written, connections are counted as ever, and bytes are not."""
    try:
        if not is_on():
            _SWITCH.write_text("1")
    except OSError as error:
        _log.warning(
            "bytes in the kernel are not counted: net.netfilter.nf_conntrack_acct: %s", error.strerror
        )


def put_back(rules: str) -> list[str]:
    """As it was before these rules; returns what was changed, in words."""
    if before(rules) is not False or not is_on():
        return []
    try:
        _SWITCH.write_text("0")
    except OSError:
        return []
    return ["sysctl net.netfilter.nf_conntrack_acct"]
