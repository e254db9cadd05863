"""Who should be carried by the kernel: a pure function of traffic, load and time.

Owns the thresholds and what keeps Service ports from moving to and fro. Refuses to know what can
move at all, and how. docs/handoff.md has the measurements behind the numbers.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from uproxy.model.names import ServicePortName

HOT_CONNECTIONS_PER_S = 1000.0
"""A short connection costs the relay some 50 us of CPU: this many are 5 % of a CPU."""
HOT_BYTES_PER_S = 100e6
"""In big pieces that is 1 to 2 % of a CPU, in pieces of 1 KiB a whole one."""
BUSY = 0.7
"""Of the proxy's CPUs: from then on its greatest burdens move, whatever their rates."""
BUSY_SHARE = 0.25
"""How much of all traffic such a burden is, at least,"""
BUSY_HEAT = 0.02
"""and how hot, where 1 is hot by itself."""
HOT_FOR_S = 3.0
"""A Service port moves when it was hot for so long,"""
COLD = 0.3
"""and back when it has less than this part of the heat at which it moved, where 1 is the most that counts,"""
COLD_FOR_S = 30.0
"""for so long."""
STAY_S = 60.0
"""Nobody moves again before, in either direction."""
MOVES_PER_MINUTE = 12
"""Of all together, both directions."""


class Rates(NamedTuple):
    """Traffic of one Service port, on whatever path."""

    connections_per_s: float
    bytes_per_s: float

    @property
    def heat(self) -> float:
        """1 and more is hot."""
        return max(self.connections_per_s / HOT_CONNECTIONS_PER_S, self.bytes_per_s / HOT_BYTES_PER_S)


class Move(NamedTuple):
    """A Service port that is to change its carrier."""

    name: ServicePortName
    to_kernel: bool
    why: str


@dataclass(slots=True)
class _Case:
    in_kernel: bool = False
    moved_s: float | None = None
    heat_then: float = 1.0
    since_s: float | None = None
    """Since when it has been as it must be to move; None while it is not."""


@dataclass(slots=True)
class Decision:
    """Remembers each Service port that was ever warm; the others cost nothing."""

    _cases: dict[ServicePortName, _Case] = field(default_factory=dict)
    _moved: deque[float] = field(default_factory=deque)

    def forget(self, name: ServicePortName) -> None:
        """The Service port is gone, or somebody else decides for it."""
        self._cases.pop(name, None)

    def moves(self, now_s: float, rates: Mapping[ServicePortName, Rates], load: float) -> list[Move]:
        """Who is to move now, the hottest first. `rates` has everybody who may move; who is not in it had no
        traffic. `load` is how busy the proxy's CPUs are, 0 to 1. Whatever is returned counts as moved."""
        while self._moved and self._moved[0] <= now_s - 60.0:
            self._moved.popleft()
        total = sum(its.heat for its in rates.values())
        found: list[tuple[float, Move]] = []
        for name in rates.keys() | self._cases.keys():
            its = rates.get(name, Rates(0.0, 0.0))
            why = self._why(name, its, now_s, load, total)
            if why is not None:
                found.append((its.heat, Move(name, not self._cases[name].in_kernel, why)))
        found.sort(key=lambda one: (-one[0], one[1].name))
        chosen = [move for _, move in found[: max(0, MOVES_PER_MINUTE - len(self._moved))]]
        for move in chosen:
            self._cases[move.name] = _Case(
                move.to_kernel, now_s, min(1.0, rates.get(move.name, Rates(0.0, 0.0)).heat)
            )
            self._moved.append(now_s)
        return chosen

    def failed(self, move: Move, now_s: float) -> None:
        """The move could not be made: it is where it was, and stays there for a while."""
        self._cases[move.name] = _Case(not move.to_kernel, now_s)

    def _why(self, name: ServicePortName, its: Rates, now_s: float, load: float, total: float) -> str | None:
        """Why it is to move; None when it is not, or not yet."""
        case = self._cases.get(name)
        in_kernel = case is not None and case.in_kernel
        why = _cold(its, case.heat_then) if case is not None and in_kernel else _hot(its, load, total)
        if why is None:
            if case is not None:
                case.since_s = None
                if not in_kernel and (case.moved_s is None or case.moved_s + STAY_S <= now_s):
                    del self._cases[name]
            return None
        if case is None:
            case = self._cases[name] = _Case()
        if case.since_s is None:
            case.since_s = now_s
        long_enough = now_s - case.since_s >= (COLD_FOR_S if in_kernel else HOT_FOR_S)
        stayed = case.moved_s is None or now_s - case.moved_s >= STAY_S
        return why if long_enough and stayed else None


def _hot(its: Rates, load: float, total: float) -> str | None:
    if its.connections_per_s >= HOT_CONNECTIONS_PER_S:
        return f"{its.connections_per_s:.0f} connections/s"
    if its.bytes_per_s >= HOT_BYTES_PER_S:
        return f"{its.bytes_per_s / 1e6:.0f} MB/s"
    if load >= BUSY and its.heat >= BUSY_HEAT and its.heat >= BUSY_SHARE * total:
        return f"the proxy is {load:.0%} busy, this is {its.heat / total:.0%} of its traffic"
    return None


def _cold(its: Rates, heat_then: float) -> str | None:
    if its.heat >= COLD * heat_then:
        return None
    return f"down to {its.connections_per_s:.0f} connections/s, {its.bytes_per_s / 1e6:.1f} MB/s"
