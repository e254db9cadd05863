"""What the kernel is to do with new traffic for each VIP, as values.

Owns the decision and the difference between what is programmed and what is wanted.
Refuses to know how either is programmed: that is `nft.py` and `iptables.py`.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from uproxy.model.frontend import Changes, DesiredServicePort, Frontend, FrontendKind, Treatment
from uproxy.model.names import Family, IPAddress, IPNetwork, Protocol, ServicePortName, Vip


class Verdict(StrEnum):
    """What happens to a new connection, or datagram, for a VIP."""

    REDIRECT = "redirect"
    """To the shared listener of its family, which asks SO_ORIGINAL_DST for the VIP. TCP only."""
    REJECT = "reject"
    """Refused by the kernel: TCP reset, or ICMP port unreachable."""
    DROP = "drop"
    """No answer."""
    DELIVER = "deliver"
    """To the socket that is bound to it, although the address is not local. UDP only."""


class Rule(NamedTuple):
    """Everything that the kernel does for one VIP."""

    verdict: Verdict | None = None
    """None where a socket is bound to the VIP itself."""
    inside_only: bool = False
    """Clients that are neither on this node nor in its Pods get no answer."""
    allowed: tuple[IPNetwork, ...] = ()
    """Nor do clients that are in none of these; empty lets everybody in."""
    alone: bool = False
    """The address is the Service's alone (a ClusterIP): on its other ports everybody is refused, as
    kube-proxy's nftables mode does. They would come to programs of the node that listen everywhere."""


class RedirectPorts(NamedTuple):
    """The ports on which the shared listeners, one a family, wait for redirected connections."""

    ipv4: int
    ipv6: int

    def of(self, family: Family) -> int:
        """The port of one family."""
        return self.ipv4 if family == 4 else self.ipv6


def rule(port: DesiredServicePort, frontend: Frontend) -> Rule | None:
    """What the kernel does for one VIP; None where it needs no rule.

    Without a usable backend the kernel has to refuse, because a redirected handshake is
    already accepted by the time the proxy could. UDP with backends gets no verdict: REDIRECT
    would lose its destination, so its socket is bound to the VIP itself.
    """
    protocol, alone = port.name.protocol, frontend.kind is FrontendKind.CLUSTER_IP
    if protocol is Protocol.SCTP:
        return None
    match port.treatment(frontend):
        case Treatment.REJECT:
            # Who may not come is not told that there is nobody.
            return Rule(Verdict.REJECT, allowed=frontend.allowed, alone=alone)
        case Treatment.DROP:
            return Rule(Verdict.DROP, alone=alone)
        case Treatment.INSIDE | Treatment.FORWARD as treatment:
            verdict = Verdict.REDIRECT if protocol is Protocol.TCP else None
            found = Rule(verdict, treatment is Treatment.INSIDE, frontend.allowed, alone)
            return None if found == Rule() else found


Decide = Callable[[DesiredServicePort, Frontend], Rule | None]


def tproxy_rule(port: DesiredServicePort, frontend: Frontend) -> Rule | None:
    """What `rule` is under capture `tproxy`, where UDP does without local routes but a ClusterIP's."""
    found = rule(port, frontend)
    is_local = frontend.vip.is_node_port or frontend.kind is FrontendKind.CLUSTER_IP
    if is_local or port.name.protocol is not Protocol.UDP:
        return found
    if found is None:
        return Rule(Verdict.DELIVER)
    return found if found.verdict is not None else found._replace(verdict=Verdict.DELIVER)


@dataclass(frozen=True, slots=True)
class RuleDelta:
    """From what is programmed to what is wanted.

    A VIP whose rule changes is in both, so both halves belong into one transaction.
    """

    add: Mapping[Vip, Rule]
    remove: Mapping[Vip, Rule]
    add_alone: frozenset[IPAddress] = frozenset()
    """Addresses that are a Service's alone from now on."""
    remove_alone: frozenset[IPAddress] = frozenset()
    """Those without a port that is."""

    def __bool__(self) -> bool:
        return bool(self.add or self.remove or self.add_alone or self.remove_alone)

    @property
    def vips(self) -> frozenset[Vip]:
        """Every VIP that is touched."""
        return frozenset((*self.add, *self.remove))


def alone(rules: Mapping[Vip, Rule]) -> frozenset[IPAddress]:
    """The addresses of which other ports are refused."""
    return frozenset(vip.ip for vip, its in rules.items() if its.alone)


class RuleTable:
    """The wanted rule of every VIP, as `decide` has it, and which of them the kernel already has.

    Relies on the desired state for each VIP belonging to one Service port at a time.
    """

    def __init__(self, decide: Decide = rule) -> None:
        self._decide = decide
        self._ports: dict[ServicePortName, dict[Vip, Rule]] = {}
        self._wanted: dict[Vip, Rule] = {}
        self._programmed: dict[Vip, Rule] = {}
        self._unsettled: set[Vip] = set()
        self._alone: Counter[IPAddress] = Counter()
        """How many wanted rules have an address alone."""
        self._alone_programmed: set[IPAddress] = set()

    @property
    def wanted(self) -> Mapping[Vip, Rule]:
        """The rule of every VIP that needs one."""
        return self._wanted

    def want(self, changes: Changes) -> None:
        """Take in changes. Programs nothing; `delta` says what would have to be."""
        # All old rules go first: within one batch a VIP may move to another Service port.
        for name in (*changes.removed, *(port.name for port in changes.updated)):
            for vip in self._ports.pop(name, {}):
                old = self._wanted.pop(vip, None)
                self._alone[vip.ip] -= old is not None and old.alone
                self._unsettled.add(vip)
        for port in changes.updated:
            rules = self._rules(port)
            self._ports[port.name] = rules
            self._wanted.update(rules)
            self._alone.update(vip.ip for vip, its in rules.items() if its.alone)
            self._unsettled.update(rules)

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
        ips = {vip.ip for vip in self._unsettled}
        wanted = {ip for ip in ips if self._alone[ip] > 0}
        programmed = ips & self._alone_programmed
        return RuleDelta(add, remove, frozenset(wanted - programmed), frozenset(programmed - wanted))

    def settle(self) -> None:
        """Record that the kernel now has what is wanted."""
        for vip in self._unsettled:
            if vip in self._wanted:
                self._programmed[vip] = self._wanted[vip]
            else:
                self._programmed.pop(vip, None)
            if self._alone[vip.ip] > 0:
                self._alone_programmed.add(vip.ip)
            else:
                self._alone_programmed.discard(vip.ip)
                del self._alone[vip.ip]
        self._unsettled.clear()

    def _rules(self, port: DesiredServicePort) -> dict[Vip, Rule]:
        rules = ((frontend.vip, self._decide(port, frontend)) for frontend in port.frontends)
        return {vip: found for vip, found in rules if found is not None}
