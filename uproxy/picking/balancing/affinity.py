"""Session affinity ClientIP: a client keeps its backend, whatever the policy behind says. Pure.

Owns who is pinned to which backend. Whom a client gets that is not pinned, a `Balancer` decides.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from uproxy.model.affinity import Pinned
from uproxy.picking.backends import BackendState
from uproxy.picking.balancing.balancer import Balancer

AFFINITY_CLIENTS_MAX = 65_536
"""Clients remembered per Service port; beyond it, who was away longest is forgotten."""


class _Pin(NamedTuple):
    state: BackendState
    used_s: float


class SessionAffinity:
    """The usable backends of one Service port and family; without a timeout the policy alone."""

    __slots__ = ("_pins", "affinity_timeout_s", "backends", "policy")

    def __init__(self, policy: Balancer) -> None:
        self.policy = policy
        self.backends: tuple[BackendState, ...] = ()
        self.affinity_timeout_s: int | None = None
        self._pins: dict[str, _Pin] = {}  # in order of last use

    def replace(
        self, backends: tuple[BackendState, ...], affinity_timeout_s: int | None, now_s: float
    ) -> None:
        """Balance over `backends` from now on.

        Clients pinned to a backend that is gone are released; a changed timeout holds
        for everybody at once.
        """
        self.policy.replace(backends, now_s)
        self.backends = backends
        self.affinity_timeout_s = affinity_timeout_s
        if affinity_timeout_s is None:
            self._pins.clear()
        elif self._pins:
            stay = set(backends)
            self._pins = {client: pin for client, pin in self._pins.items() if pin.state in stay}

    def follow(self, policy: Balancer, now_s: float) -> None:
        """Another policy from now on; who is pinned stays so."""
        policy.replace(self.backends, now_s)
        self.policy = policy

    def pick(self, client: str, now_s: float, tried: Collection[BackendState] = ()) -> BackendState | None:
        """The backend for a new connection of `client`, none of those it `tried` already.

        None when there is no backend, or all were tried.
        """
        if self.affinity_timeout_s is None:
            return self.policy.pick(client, now_s, tried)
        pin = self._pins.pop(client, None)
        if pin is None or not self._holds(pin, now_s, tried):
            state = self.policy.pick(client, now_s, tried)
            if state is None:
                return None
            pin = _Pin(state, now_s)
        self._remember(client, pin.state, now_s)
        return pin.state

    def pinned(self, now_s: float) -> Iterator[Pinned]:
        """All clients that have not been away for too long."""
        timeout_s = self.affinity_timeout_s or 0
        for client, (state, used_s) in self._pins.items():
            if now_s - used_s <= timeout_s:
                yield Pinned(client, state.backend, now_s - used_s)

    def pin(self, clients: Iterable[Pinned], now_s: float) -> None:
        """Keep these where they were, but for those that have called here since."""
        if self.affinity_timeout_s is None:
            return
        states = {state.backend: state for state in self.backends}
        pins = self._pins
        for client, backend, idle_s in clients:
            pin, known = states.get(backend), pins.get(client)
            if pin is not None and (known is None or known.used_s < now_s - idle_s):
                pins[client] = _Pin(pin, now_s - idle_s)
        latest = sorted(pins.items(), key=lambda item: item[1].used_s)[-AFFINITY_CLIENTS_MAX:]
        self._pins = dict(latest)

    def _holds(self, pin: _Pin, now_s: float, tried: Collection[BackendState]) -> bool:
        timeout_s = self.affinity_timeout_s or 0
        return (
            now_s - pin.used_s <= timeout_s and pin.state not in tried and pin.state.sits_out_until_s <= now_s
        )

    def _remember(self, client: str, state: BackendState, now_s: float) -> None:
        pins = self._pins
        pins[client] = _Pin(state, now_s)
        oldest = next(iter(pins))
        expired = now_s - pins[oldest].used_s > (self.affinity_timeout_s or 0)
        if expired or len(pins) > AFFINITY_CLIENTS_MAX:
            del pins[oldest]
