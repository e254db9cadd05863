"""What is known of one host name: its last good answers, and when to ask again.

Owns the rules of time and of failure. No input, output or clock: it returns seconds to wait.
"""

from enum import Enum, auto
from typing import NamedTuple

from uproxy.model.names import Family, IPAddress
from uproxy.model.special import special

_SHORTEST_S, _LONGEST_S = 1.0, 3600.0
"""Bounds on a TTL: names with TTL 0, and those of /etc/hosts, are asked for once a second."""
_ABSENT_S = 30.0
"""A family of addresses that a name does not have may appear later."""
_LONGEST_RETRY_S = 30.0
_MOST_DOUBLINGS = 5


class Answer(NamedTuple):
    """A name's addresses of one family; empty when it has none of that family (NODATA)."""

    addresses: tuple[IPAddress, ...]
    ttl_s: float


class Miss(Enum):
    """Why there is no answer."""

    NO_NAME = auto()
    """NXDOMAIN: the name does not exist, or it stands in /etc/hosts with the other family only."""
    NO_REPLY = auto()
    """SERVFAIL, REFUSED, no server in time..."""


class Verdict(NamedTuple):
    """What a reply amounts to."""

    failed: bool
    ask_again_s: float


class HostAnswers:
    """One host name's answers, IPv4 and IPv6 apart."""

    def __init__(self) -> None:
        self._good: dict[Family, tuple[IPAddress, ...]] = {4: (), 6: ()}
        self._failures: dict[Family, int] = {4: 0, 6: 0}

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        """The last good addresses: IPv4 before IPv6, each sorted."""
        return self._good[4] + self._good[6]

    def note(self, family: Family, reply: Answer | Miss) -> Verdict:
        """Take the reply to a question for `family`."""
        if isinstance(reply, Answer):
            hosts = tuple(ip for ip in reply.addresses if not special(ip, loopback=True))
            return self._answered(family, reply._replace(addresses=hosts))
        if reply is Miss.NO_NAME and self.addresses and not self._good[family]:
            return self._answered(family, Answer((), _ABSENT_S))
        self._failures[family] += 1
        doublings = min(self._failures[family] - 1, _MOST_DOUBLINGS)
        return Verdict(failed=True, ask_again_s=min(_SHORTEST_S * 2**doublings, _LONGEST_RETRY_S))

    def _answered(self, family: Family, answer: Answer) -> Verdict:
        """An empty answer takes the family's addresses away, but never the name's last ones."""
        self._failures[family] = 0
        if not answer.addresses:
            if self.addresses != self._good[family]:
                self._good[family] = ()
            return Verdict(failed=False, ask_again_s=_ABSENT_S)
        self._good[family] = tuple(sorted(set(answer.addresses), key=int))
        return Verdict(failed=False, ask_again_s=min(max(answer.ttl_s, _SHORTEST_S), _LONGEST_S))
