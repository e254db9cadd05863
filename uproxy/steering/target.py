"""The target that keeps the kernel's rules in line with the desired state.

Owns when to program everything and when only a change, and what to report when that fails.
Refuses to know nftables from iptables: both are a `RuleBackend`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from uproxy.errors import CommandFailed
from uproxy.model.frontend import Changes
from uproxy.model.names import Family, IPNetwork, Vip
from uproxy.steering import iptables, nft, tproxy
from uproxy.steering.probe import Mechanism
from uproxy.steering.rules import Decide, RedirectPorts, Rule, RuleDelta, RuleTable, rule, tproxy_rule

CHECK_S = 30.0
"""How often the kernel is asked whether it has what it should; kube-proxy programs all anew as often."""

_log = logging.getLogger(__name__)


class RuleBackend(Protocol):
    """One way to program rules. Every method raises CommandFailed."""

    problems: Mapping[Family, str]
    """Families that the last `replace` could not serve at all, with the reason."""

    async def replace(self, rules: Mapping[Vip, Rule], inside: Sequence[IPNetwork]) -> None:
        """Program exactly `rules`, whatever was there before, without a gap. Clients in `inside` count
        as Pods of this node."""
        ...

    async def apply(self, delta: RuleDelta) -> None:
        """Program a change to what `replace` and `apply` have programmed."""
        ...

    async def lost(self, rules: Mapping[Vip, Rule], inside: Sequence[IPNetwork]) -> str | None:
        """What is not in the kernel any more of what was programmed, which is this, in words; None when all
        is there. Called after `replace`, and then now and again."""
        ...

    async def remove(self) -> list[str]:
        """Remove everything, of earlier runs too; returns what was there, in words."""
        ...


class SteeringRules:
    """A target: a kernel rule for every VIP that needs one, which `decide` says.

    `remove_rival` removes what the mechanism that is not in use may have left.
    """

    def __init__(
        self,
        backend: RuleBackend,
        remove_rival: Callable[[], Awaitable[list[str]]],
        decide: Decide = rule,
    ) -> None:
        self._backend = backend
        self._remove_rival = remove_rival
        self._table = RuleTable(decide)
        self._inside: tuple[IPNetwork, ...] = ()
        self._in_step = False
        """Whether the kernel has what the table says; false before the first programming and
        after a failure, when others may have flushed the ruleset."""
        self._lock = asyncio.Lock()

    async def make(self, changes: Changes) -> Mapping[Vip, str]:
        """Bring the rules in line, deletions included, in one transaction.

        Deletions do not wait for `retire`, because a verdict that flips is one of each.
        """
        async with self._lock:
            self._table.want(changes)
            if changes.inside is not None:
                self._inside = changes.inside
                self._in_step = False
            delta = self._table.delta()
            try:
                await self._program(delta)
            except CommandFailed as error:
                self._in_step = False
                return dict.fromkeys(delta.vips, str(error))
            self._table.settle()
            return self._unserved(changes)

    async def _program(self, delta: RuleDelta) -> None:
        if not self._in_step:
            await self._backend.replace(self._table.wanted, self._inside)
            self._in_step = True
            await self._lost()
        elif delta:
            await self._backend.apply(delta)

    def _unserved(self, changes: Changes) -> Mapping[Vip, str]:
        problems = self._backend.problems
        if not problems:
            return {}
        vips = (frontend.vip for port in changes.updated for frontend in port.frontends)
        return {
            vip: problems[vip.family] for vip in vips if vip.family in problems and vip in self._table.wanted
        }

    async def retire(self, changes: Changes) -> None:
        """Nothing is left to do: `make` has taken down what is without use."""

    async def prune(self) -> None:
        """Remove what a run with the other mechanism left; our own was replaced at once."""
        try:
            removed = await self._remove_rival()
        except CommandFailed as error:
            _log.warning("rules of an earlier run stay: %s", error)
            return
        if removed:
            _log.info("removed what an earlier run left: %s", ", ".join(removed))

    async def run(self) -> None:
        """Look every half a minute whether the kernel has still what it should. For ever."""
        while True:
            await asyncio.sleep(CHECK_S)
            await self.check()

    async def check(self) -> None:
        """Program everything anew where somebody has removed what is ours."""
        async with self._lock:
            lost = await self._lost() if self._in_step else None
            if lost is None:
                return
            _log.warning("rules are programmed anew, since somebody has been at them: %s", lost)
            try:
                await self._backend.replace(self._table.wanted, self._inside)
                await self._lost()
            except CommandFailed as error:
                self._in_step = False
                _log.warning("rules are not as they should be: %s", error)

    async def _lost(self) -> str | None:
        try:
            return await self._backend.lost(self._table.wanted, self._inside)
        except CommandFailed as error:
            _log.debug("what the kernel has cannot be seen: %s", error)
            return None

    async def close(self) -> None:
        """Remove every rule and set. Raises CommandFailed when the kernel refuses."""
        async with self._lock:
            await self._backend.remove()
            self._in_step = False


def steering_rules(mechanism: Mechanism, ports: RedirectPorts) -> SteeringRules:
    """The target for a mechanism that redirects. Raises ValueError for one that does not."""
    match mechanism:
        case Mechanism.NFT:
            return SteeringRules(nft.NftRules(ports), iptables.remove)
        case Mechanism.IPTABLES:
            return SteeringRules(iptables.IptablesRules(ports), nft.remove)
        case Mechanism.LOCAL_ROUTES | Mechanism.LO_ADDRESSES | Mechanism.LOOPBACK:
            raise ValueError(f"{mechanism} has no rules")


def tproxy_rules(ports: RedirectPorts) -> SteeringRules:
    """The target for capture `tproxy`."""
    return SteeringRules(nft.NftRules(ports, tproxy.table), iptables.remove, tproxy_rule)
