"""Whether the table `inet uproxy-handoff` is as it was programmed, whoever has been at it.

Owns the comparison; what shall be there it is told. While nobody has changed any table of the machine, one
question is all that it costs. Refuses to mend anything.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import closing

from uproxy.handoff.nft_batch import Leg, LegKey, Lookup, clients
from uproxy.handoff.nft_chains import TABLE
from uproxy.kernel.nft_sight import NftSight, lacking


class TableLook:
    """Blocks. One thread at a time."""

    def __init__(self) -> None:
        self._seen: int | None = None
        """The generation in which all was there."""
        self._constant: Mapping[str, int] | None = None

    def begin(self) -> None:
        """The table is new, and what it has now it shall keep, but for the chains of addresses."""
        self._seen = self._constant = None

    def lost(
        self, legs: Iterable[Mapping[LegKey, tuple[str, Leg]]], elements: Iterable[Lookup]
    ) -> str | None:
        """What is not there that shall be, in words. Raises CommandFailed."""
        with closing(NftSight(TABLE.name)) as sight:
            generation = sight.generation()
            if generation == self._seen:
                return None
            rules = sight.rules()
            if self._constant is None:
                self._constant = rules
            found = (
                lacking(rules, {**self._constant, **_of_legs(legs)})
                or _lost_turns(sight, legs)
                or _lost_elements(sight, elements)
            )
        self._seen = generation if found is None else None
        return found


def _lost_turns(sight: NftSight, legs: Iterable[Mapping[LegKey, tuple[str, Leg]]]) -> str | None:
    for its in legs:
        for chain, leg in its.values():
            if leg.affinity_timeout_s is None and len(sight.keys(chain)) < len(leg.backends):
                return f"map {chain} lacks endpoints"
    return None


def _lost_elements(sight: NftSight, elements: Iterable[Lookup]) -> str | None:
    wanted: dict[str, set[bytes]] = defaultdict(set)
    for name, key in elements:
        wanted[name].add(key)
    for name, keys in wanted.items():
        if keys - sight.keys(name):
            return f"{name} lacks elements"
    return None


def _of_legs(legs: Iterable[Mapping[LegKey, tuple[str, Leg]]]) -> dict[str, int]:
    """Chains of addresses have a rule at least, and those of endpoints under affinity two."""
    found = {}
    for its in legs:
        for chain, leg in its.values():
            found[chain] = 1
            found.update((name, 2) for name, _ in clients(chain, leg))
    return found
