"""What changed for the worse or the better, in the log: each piece of news once.

Owns what was told already. Mistakes in manifests, addresses that a Service cannot have,
addresses that could not be programmed.
"""

import logging
from collections.abc import Hashable, Iterable, Mapping

from uproxy.model.faults import Fault
from uproxy.model.frontend import Changes
from uproxy.model.names import ServicePortName, Vip

log = logging.getLogger("uproxy")

_STANDSTILL = "no address at all could be programmed: /healthz is 503; trying again"


class News:
    """Compares with what it told before, and tells the difference."""

    def __init__(self) -> None:
        self._told: dict[Hashable, frozenset[str]] = {}

    def of_faults(self, faults: Mapping[str, Iterable[Fault]]) -> None:
        """The mistakes of every source, as they are now."""
        for source, its_faults in faults.items():
            self._tell(("faults of", source), map(str, its_faults), "corrected: %s")

    def of_changes(self, changes: Changes) -> None:
        """What Service ports do without, as they are now."""
        for desired in changes.updated:
            lines = (f"{desired.name}: {note}" for note in desired.notes)
            self._tell(desired.name, lines, "no longer: %s")
        for name in changes.removed:
            self._told.pop(name, None)

    def of_problems(self, problems: Mapping[ServicePortName, Mapping[Vip, str]]) -> None:
        """The addresses that could not be programmed, as they are now."""
        lines = (
            f"{name} at {vip}: {reason}" for name, vips in problems.items() for vip, reason in vips.items()
        )
        self._tell("problems", lines, "solved: %s")

    def of_standstill(self, *, stands: bool) -> None:
        """Whether not one of the addresses that are wanted could be programmed."""
        self._tell("standstill", [_STANDSTILL] if stands else [], "no longer: %s")

    def _tell(self, about: Hashable, lines: Iterable[str], solved: str) -> None:
        now, before = dict.fromkeys(lines), self._told.get(about, frozenset())
        for line in now:
            if line not in before:
                log.warning("%s", line)
        for line in before:
            if line not in now:
                log.info(solved, line)
        if now or before:
            self._told[about] = frozenset(now)
