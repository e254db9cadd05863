"""Is the proxy doing its work? The answers of `/healthz` and `/livez`.

The JSON and the meaning are kube-proxy's (pkg/proxy/healthcheck/proxy_health.go, KEP-3836):
`livez` asks whether the process works and should be left running; `healthz`, which load
balancers ask, also whether new traffic should come here. Pure: the times are passed in.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from uproxy.model.names import Family
from uproxy.model.node import Node
from uproxy.reconcile.loop import ReconcileLoop

LATE_S = 60.0
"""A change that waits for longer than this makes the proxy unhealthy: kube-proxy's two
syncPeriods of 30 s."""

_NEVER = datetime.min.replace(tzinfo=UTC)


class Answer(NamedTuple):
    """An HTTP status and a JSON body."""

    status: int
    body: bytes


def node_eligible(node: Node | None, awaited: bool) -> bool:
    """Whether the own node may be sent new traffic: kube-proxy's NodeEligible (KEP-3836).

    `awaited` says that a cluster ought to have the node: then it is not when the node is gone.
    """
    return not node.leaving if node is not None else not awaited


class HealthState:
    """Healthy from the first complete programming on, while no change waits for too long.

    Single addresses that cannot be programmed are their Services' trouble (`uproxy services`). A machine
    on which none can is not healthy, as kube-proxy is not when its rules cannot be restored.
    """

    def __init__(self, loop: ReconcileLoop) -> None:
        self.draining = False
        """Set by who shuts the proxy down: no new traffic, please."""
        self._loop = loop

    def healthz(
        self, now_s: float, wall: datetime, node_eligible: bool, disconnected_s: float = 0.0
    ) -> Answer:
        """Whether new traffic should come here. `wall` is the present moment, in UTC.

        An API server that is away for `disconnected_s` is said, and changes nothing else.
        """
        eligible = node_eligible and not self.draining
        more: dict[str, Any] = {"nodeEligible": eligible}
        if disconnected_s:
            more["apiServerAwaySince"] = wall - timedelta(seconds=disconnected_s)
        return self._answer(now_s, wall, eligible, more)

    def livez(self, now_s: float, wall: datetime) -> Answer:
        """Whether the proxy works, however much longer it is going to."""
        return self._answer(now_s, wall, True, {})

    def works(self, now_s: float) -> bool:
        """Whether everything was programmed once, no change waits for too long, and of what is wanted
        anything is in force."""
        in_time = self._waits_s(now_s) <= LATE_S
        return self._loop.programmed.is_set() and in_time and self._loop.works()

    def serves(self, now_s: float) -> bool:
        """Whether it works, and is not about to end: what the health checks of Services go by."""
        return self.works(now_s) and not self.draining

    def _answer(self, now_s: float, wall: datetime, eligible: bool, more: dict[str, Any]) -> Answer:
        programmed = self._loop.programmed.is_set()
        waits_s = self._waits_s(now_s)
        works = self.works(now_s)
        # kube-proxy: while all is well, "last updated" is the present, even if nothing changed.
        # When it is not: until the oldest waiting change came, everything was up to date.
        updated = wall if works else wall - timedelta(seconds=waits_s) if programmed else _NEVER
        body: dict[str, Any] = {"lastUpdated": updated, "currentTime": wall, **more}
        healthy = works and eligible
        families: tuple[Family, ...] = (4, 6)
        body |= {"healthy": healthy}
        body["status"] = {
            f"IPv{family}": {"lastUpdated": updated, "healthy": works and self._loop.works(family)}
            for family in families
        }
        return Answer(200 if healthy else 503, msgspec.json.encode(body))

    def _waits_s(self, now_s: float) -> float:
        since_s = self._loop.queued_since_s
        return 0.0 if since_s is None else now_s - since_s
