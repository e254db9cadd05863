"""What the kernel is to do with new traffic for each VIP, as values.

Owns the decision and the difference between what is programmed and what is wanted.
Refuses to know how either is programmed: that is `nft.py` and `iptables.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from uproxy.model.frontend import Changes, DesiredServicePort, Frontend, FrontendKind
from uproxy.model.names import Family, Protocol, ServicePortName, Vip

PROXY_MARK = 0x7570
"""SO_MARK of the proxy's own dials ("up"). Packets whose whole mark is this are left alone."""


class Verdict(StrEnum):
    """What happens to a new connection, or datagram, for a VIP."""

    REDIRECT = "redirect"
    """To the shared listener of its family, which asks SO_ORIGINAL_DST for the VIP. TCP only."""
    REJECT = "reject"
    """Refused by the kernel: TCP reset, or ICMP port unreachable."""
    DELIVER = "deliver"
    """To the socket that is bound to it, although the address is not local. UDP only."""


class RedirectPorts(NamedTuple):
    """The ports on which the shared listeners, one a family, wait for redirected connections."""

    ipv4: int
    ipv6: int

    def of(self, family: Family) -> int:
        """The port of one family."""
        return self.ipv4 if family == 4 else self.ipv6


def verdict(port: DesiredServicePort, frontend: Frontend) -> Verdict | None:
    """What the kernel does for one VIP; None where it needs no rule.

    Without a usable backend the kernel has to refuse, because a redirected handshake is
    already accepted by the time the proxy could. UDP with backends gets no rule: REDIRECT
    would lose its destination, so its socket is bound to the VIP itself.
    """
    match port.name.protocol:
        case Protocol.TCP:
            return Verdict.REDIRECT if port.backends(frontend) else Verdict.REJECT
        case Protocol.UDP:
            return None if port.backends(frontend) else Verdict.REJECT
        case Protocol.SCTP:
            return None


Decide = Callable[[DesiredServicePort, Frontend], Verdict | None]


def tproxy_verdict(port: DesiredServicePort, frontend: Frontend) -> Verdict | None:
    """What `verdict` is under capture `tproxy`, where UDP does without local routes but a ClusterIP's."""
    what = verdict(port, frontend)
    if what is not None or port.name.protocol is not Protocol.UDP:
        return what
    is_local = frontend.vip.is_node_port or frontend.kind is FrontendKind.CLUSTER_IP
    return None if is_local else Verdict.DELIVER


@dataclass(frozen=True, slots=True)
class RuleDelta:
    """From what is programmed to what is wanted.

    A VIP whose verdict flips is in both, so both halves belong into one transaction.
    """

    add: Mapping[Vip, Verdict]
    remove: Mapping[Vip, Verdict]

    def __bool__(self) -> bool:
        return bool(self.add or self.remove)

    @property
    def vips(self) -> frozenset[Vip]:
        """Every VIP that is touched."""
        return frozenset((*self.add, *self.remove))


class RuleTable:
    """The wanted verdict of every VIP, as `decide` has it, and which of them the kernel already has.

    Relies on the desired state for each VIP belonging to one Service port at a time.
    """

    def __init__(self, decide: Decide = verdict) -> None:
        self._decide = decide
        self._ports: dict[ServicePortName, dict[Vip, Verdict]] = {}
        self._wanted: dict[Vip, Verdict] = {}
        self._programmed: dict[Vip, Verdict] = {}
        self._unsettled: set[Vip] = set()

    @property
    def wanted(self) -> Mapping[Vip, Verdict]:
        """The verdict of every VIP that needs one."""
        return self._wanted

    def want(self, changes: Changes) -> None:
        """Take in changes. Programs nothing; `delta` says what would have to be."""
        # All old verdicts go first: within one batch a VIP may move to another Service port.
        for name in (*changes.removed, *(port.name for port in changes.updated)):
            for vip in self._ports.pop(name, {}):
                self._wanted.pop(vip, None)
                self._unsettled.add(vip)
        for port in changes.updated:
            verdicts = self._verdicts(port)
            self._ports[port.name] = verdicts
            self._wanted.update(verdicts)
            self._unsettled.update(verdicts)

    def delta(self) -> RuleDelta:
        """What separates the kernel from what is wanted; costs only what has changed."""
        add, remove = {}, {}
        for vip in self._unsettled:
            new, old = self._wanted.get(vip), self._programmed.get(vip)
            if new == old:
                continue
            if new is not None:
                add[vip] = new
            if old is not None:
                remove[vip] = old
        return RuleDelta(add, remove)

    def settle(self) -> None:
        """Record that the kernel now has what is wanted."""
        for vip in self._unsettled:
            if vip in self._wanted:
                self._programmed[vip] = self._wanted[vip]
            else:
                self._programmed.pop(vip, None)
        self._unsettled.clear()

    def _verdicts(self, port: DesiredServicePort) -> dict[Vip, Verdict]:
        verdicts = ((frontend.vip, self._decide(port, frontend)) for frontend in port.frontends)
        return {vip: found for vip, found in verdicts if found is not None}
