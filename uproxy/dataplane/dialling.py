"""The endpoints that one connection tries, until one answers.

Owns the policy of dialling, which every relay follows: the balancer's order, each endpoint at
most once, within a budget of time; a failure is counted and makes the endpoint sit out. Pure:
the time is passed in.
"""

from uproxy.dataplane.backends import BackendState
from uproxy.dataplane.routes import Route
from uproxy.model.closing import CloseReason, DialFailure

RESOURCES_RETRY_S = 0.1
"""When this machine lacks something, which is not the endpoint's fault and may come back."""


class Dialling:
    """What was tried for one client."""

    __slots__ = ("client_address", "deadline_s", "route", "started_s", "tried")

    def __init__(self, route: Route, client_address: str, started_s: float, budget_s: float) -> None:
        self.route = route
        self.client_address = client_address
        self.started_s = started_s
        self.deadline_s = started_s + budget_s
        self.tried: list[BackendState] = []

    def next(self, now_s: float) -> BackendState | None:
        """The endpoint to dial; None when all were tried, or the time is up."""
        if now_s >= self.deadline_s:
            return None
        return self.route.balancer.pick(self.client_address, now_s, self.tried)

    def failed(self, state: BackendState, failure: DialFailure, now_s: float) -> None:
        """A dial failed, and it was the endpoint's fault."""
        self.tried.append(state)
        self.route.stats.dial_failed(failure)
        state.failed(now_s)

    def verdict(self, now_s: float) -> CloseReason:
        """Why the connection ends, now that there is no next endpoint."""
        nobody_there = not self.tried and now_s < self.deadline_s
        return CloseReason.NO_ENDPOINTS if nobody_there else CloseReason.DIAL_FAILED
