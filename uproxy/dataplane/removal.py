"""What becomes of open connections when their endpoint is removed: left, or reset, at once or later.

Owns the deadlines. Which endpoints are removed, `ProgrammedPort.removed_since_s` says; kube-proxy
leaves their connections, and so does a Service that asks for nothing. UDP flows of such endpoints
move in any case (`udp.py`).
"""

from asyncio import TimerHandle
from typing import NamedTuple

from uproxy.dataplane.context import Context
from uproxy.dataplane.relays import Relay
from uproxy.model.closing import CloseReason
from uproxy.model.names import Protocol, ServicePortName
from uproxy.picking.backends import BackendState
from uproxy.picking.routes import ProgrammedPort


class _Deadline(NamedTuple):
    due_s: float
    timer: TimerHandle


class Removals:
    """The removed endpoints whose connections are to be reset."""

    def __init__(self, context: Context, relay: Relay) -> None:
        self._context = context
        self._relay = relay
        self._deadlines: dict[ServicePortName, dict[BackendState, _Deadline]] = {}

    def observe(self, programmed: ProgrammedPort) -> None:
        """After a change of a Service port: endpoints went, came back in time, or the option changed."""
        desired = programmed.desired
        if desired.name.protocol is not Protocol.TCP:
            return
        drain_s = desired.options.removed_drain_s
        before = self._deadlines.pop(desired.name, {})
        if drain_s is None and not before:
            return
        removed = programmed.removed_since_s if drain_s is not None else {}
        due_s = {state: since_s + (drain_s or 0.0) for state, since_s in removed.items()}
        stay = {state: deadline for state, deadline in before.items() if due_s.get(state) == deadline.due_s}
        for state in before.keys() - stay.keys():
            before[state].timer.cancel()
        if stay:
            self._deadlines[desired.name] = stay
        for state in due_s.keys() - stay.keys():
            self._set(desired.name, state, due_s[state])

    def _set(self, name: ServicePortName, state: BackendState, due_s: float) -> None:
        left_s = due_s - self._context.now()
        if left_s <= 0:
            self._cut(state)
            return
        timer = self._context.loop.call_later(left_s, self._is_due, name, state)
        self._deadlines.setdefault(name, {})[state] = _Deadline(due_s, timer)

    def _is_due(self, name: ServicePortName, state: BackendState) -> None:
        of_port = self._deadlines[name]
        del of_port[state]
        if not of_port:
            del self._deadlines[name]
        self._cut(state)

    def _cut(self, state: BackendState) -> None:
        if self._relay.loads([state])[0]:
            self._relay.reset(CloseReason.ENDPOINT_REMOVED, state)

    def close(self) -> None:
        """Reset nobody any more."""
        for deadlines in self._deadlines.values():
            for deadline in deadlines.values():
                deadline.timer.cancel()
        self._deadlines.clear()
