"""The endpoints that one connection tries, until one answers.

Owns the policy of dialling, which every relay follows: the balancer's order, each endpoint at
most once, within a budget of time, all of which the only one may have; a failure is counted and makes the
endpoint sit out. When there is none to dial now, whether to wait for one. Pure: the time is passed in.
"""

from math import inf

from uproxy.model.closing import CloseReason, DialFailure
from uproxy.picking.backends import BackendState
from uproxy.picking.routes import Route
from uproxy.picking.waiting import HELD_MAX, Wait

RESOURCES_RETRY_S = 0.1
"""When this machine lacks something, which is not the endpoint's fault and may come back."""


class Attempts:
    """What was tried for one client."""

    __slots__ = ("client_address", "deadline_s", "destination", "route", "started_s", "tried")

    def __init__(
        self,
        route: Route,
        client_address: str,
        started_s: float,
        budget_s: float,
        destination: bytes | None = None,
    ) -> None:
        """`destination` is where the client was going, when its socket does not tell."""
        self.route = route
        self.client_address = client_address
        self.started_s = started_s
        self.deadline_s = started_s + budget_s
        self.destination = destination
        self.tried: list[BackendState] = []

    def next(self, now_s: float) -> BackendState | None:
        """The endpoint to dial; None when all were tried or are full, or the time is up."""
        if now_s >= self.deadline_s:
            return None
        return self.route.pick(self.client_address, now_s, self.tried)

    def bound_s(self, state: BackendState, connect_s: float, now_s: float) -> float:
        """How long a dial of `state` may take: `connect_s`, then it is the next one's turn; all the time
        that is left when there is no other and it did not fail lately. A lost SYN is sent again after 1 s,
        3 s and 7 s, and the client itself would wait for longer than that."""
        if self.route.is_alone(state, now_s, self.tried):
            return max(connect_s, self.deadline_s - now_s)
        return connect_s

    def failed(self, state: BackendState, failure: DialFailure, now_s: float) -> None:
        """A dial failed, and it was the endpoint's fault."""
        self.tried.append(state)
        self.route.stats.dial_failed(failure)
        state.failed(now_s)

    def wait_or_end(self, now_s: float) -> Wait | CloseReason:
        """What becomes of the client, now that there is no next endpoint."""
        wait = self.worth_waiting_for() if now_s < self.deadline_s else None
        if wait is None:
            return self.verdict(now_s)
        places = self.route.options.queue_max if wait is Wait.PLACE else HELD_MAX
        return wait if self.route.room.numbers[wait] < places else CloseReason.QUEUE_FULL

    def worth_waiting_for(self) -> Wait | None:
        """What may come: an endpoint, where the Service holds its clients; or a place at one of those
        that were not tried, which must be full."""
        route = self.route
        backends = route.balancer.backends
        if not backends:
            return Wait.ENDPOINT if route.options.hold_s is not None else None
        full = route.limit is not None and any(state not in self.tried for state in backends)
        return Wait.PLACE if full else None

    def pause(self, now_s: float) -> float:
        """It waits: that does not count as dialling, and endpoints that failed may be tried again. Returns
        how many seconds are left for dialling."""
        left_s = self.deadline_s - now_s
        self.deadline_s = inf
        self.tried.clear()
        return left_s

    def resume(self, now_s: float, left_s: float) -> None:
        """Attempts goes on, with `left_s` that `pause` returned."""
        self.deadline_s = now_s + left_s

    def verdict(self, now_s: float) -> CloseReason:
        """Why the connection ends, now that there is no next endpoint."""
        nobody_there = not self.tried and now_s < self.deadline_s
        return CloseReason.NO_ENDPOINTS if nobody_there else CloseReason.DIAL_FAILED
