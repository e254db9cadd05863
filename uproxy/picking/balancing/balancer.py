"""What a policy of balancing is, and what all of them share. Pure: time, chance and loads are passed in."""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from uproxy.picking.backends import BackendState

Loads = Callable[[Sequence[BackendState]], Sequence[int]]
"""How many connections, or flows, each of some backends has now; dials under way count."""


class Balancer(Protocol):
    """Chooses among the usable backends of one Service port and family."""

    def replace(self, backends: tuple[BackendState, ...], now_s: float) -> None:
        """Choose among `backends` from now on."""
        ...

    def pick(self, client: str, now_s: float, tried: Collection[BackendState] = ()) -> BackendState | None:
        """The backend for a new connection of `client`, none of those it `tried` already.

        One that sits out is passed over, unless all do. None when there is none, or all were tried.
        """
        ...


def open_flows(states: Sequence[BackendState]) -> Sequence[int]:
    """The loads of backends whose `active` is always up to date: UDP's."""
    return [state.active for state in states]


def candidates(
    backends: Sequence[BackendState], now_s: float, tried: Collection[BackendState]
) -> list[BackendState]:
    """Those that were not tried and do not sit out; when all sit out, better these than none."""
    untried = [state for state in backends if state not in tried] if tried else backends
    return [state for state in untried if state.sits_out_until_s <= now_s] or list(untried)
