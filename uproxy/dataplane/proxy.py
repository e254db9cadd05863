"""The data plane as a Target: sockets and routes brought in line with the desired state.

Owns which listeners are open. A listener opens before anything steers traffic to it
(`make`) and closes after nothing does (`retire`). Refuses to decide which endpoints are
usable; it is told.
"""

import asyncio
from collections.abc import Mapping

from uproxy.dataplane.arriving.guard import Guard
from uproxy.dataplane.arriving.listeners import RedirectListener, VipListener
from uproxy.dataplane.context import Context
from uproxy.dataplane.datagrams.udp import UdpFlows, UdpListener
from uproxy.dataplane.dial.sockets import reason
from uproxy.dataplane.relay.sweeper import sweep_interval_s
from uproxy.dataplane.relays import Relay
from uproxy.dataplane.removal import Removals
from uproxy.kit.turns import Turns
from uproxy.model.closing import CloseReason
from uproxy.model.frontend import Changes, DesiredServicePort, Frontend, Treatment
from uproxy.model.names import IPAddress, Protocol, ServicePortName, Vip
from uproxy.picking.balancing.balancer import open_flows
from uproxy.picking.routes import ProgrammedPort, Route, RoutingTable

_DRAIN_POLL_S = 0.02


class Dataplane:
    """Every listener, route, connection and flow of this process."""

    def __init__(self, context: Context, relay: Relay, flow_limit: int, flow_idle_s: float) -> None:
        self.context = context
        self.relay = relay
        self.ports: dict[ServicePortName, ProgrammedPort] = {}
        self.flows = UdpFlows(context, flow_limit, flow_idle_s)
        self.redirects: list[RedirectListener] = []
        self._table = RoutingTable()
        self._removals = Removals(context, relay)
        self._listeners: dict[Vip, VipListener | UdpListener] = {}
        self._sweep = context.loop.call_soon(self._sweep_flows)

    def listen_for_redirects(self, any_ip: IPAddress) -> int:
        """Take redirected TCP connections of one family; returns the port to redirect to.

        From then on no TCP listener is opened on a VIP of that family.
        """
        listener = RedirectListener(self.context, self.relay, any_ip, self._table)
        self.redirects.append(listener)
        return listener.port

    # ---- Target ----

    async def make(self, changes: Changes) -> Mapping[Vip, str]:
        """Route as desired, and listen wherever traffic will come."""
        problems: dict[Vip, str] = {}
        if changes.inside is not None:
            self.context.insiders.networks = changes.inside
            self._guard_anew(problems)
        now_s = self.context.now()
        turns = Turns()
        for desired in changes.updated:
            programmed = self.ports.get(desired.name)
            if programmed is None:
                programmed = self.ports[desired.name] = self._programmed(desired, now_s)
            else:
                before = programmed.desired
                programmed.update(desired, now_s)
                self._table.remove(_vips(before) - _vips(desired), desired.name)
            self._listen(programmed, problems)
            self._removals.observe(programmed)
            self._configure(programmed)
            programmed.room.serve(now_s)
            await turns.pause()
        for name in changes.removed:
            if name in self.ports:
                self.ports[name].retire(now_s)
                self._configure(self.ports[name])
        names = (*changes.removed, *(desired.name for desired in changes.updated))
        if any(name.protocol is Protocol.UDP for name in names):
            self.flows.drop_unusable()
        return problems

    async def retire(self, changes: Changes) -> None:
        """Close what nobody needs any more."""
        for name in changes.removed:
            programmed = self.ports.pop(name, None)
            if programmed is not None:
                self._table.remove(_vips(programmed.desired), name)
                self._close_listeners(programmed, set(programmed.listening))
        for desired in changes.updated:
            programmed = self.ports[desired.name]
            wanted = {frontend.vip for frontend in desired.frontends if self._listens(desired, frontend)}
            self._close_listeners(programmed, programmed.listening - wanted)

    async def prune(self) -> None:
        """Sockets do not outlive a process: there is nothing to prune."""

    async def close(self) -> None:
        """Close every listener, and cut what is still open."""
        self.stop_accepting()
        self._removals.close()
        self.relay.close()
        self._sweep.cancel()

    # ---- one process after another ----

    def begin_overlap(self) -> None:
        """From now on, addresses are listened on beside a process that still does."""
        self.context.overlap.lasts = True

    def share_addresses(self, *, on: bool) -> None:
        """Let a process that takes over listen where this one does, or no longer."""
        self.context.overlap.lasts = False
        for listener in self._listeners.values():
            listener.share(on=on)

    # ---- the end ----

    def stop_accepting(self) -> None:
        """Close every listener; open connections go on."""
        for listener in (*self._listeners.values(), *self.redirects):
            listener.close()
        self._listeners.clear()
        self.redirects.clear()

    def cut_connections(self) -> None:
        """Reset everything that is open. The rules that lead clients here must still stand:
        without them a reset would not find its way back."""
        self.relay.reset(CloseReason.SHUTDOWN)

    async def drain(self, timeout_s: float) -> int:
        """Wait until all connections have ended; returns how many are left at the timeout."""
        deadline_s = self.context.now() + timeout_s
        while self.relay.open_connections and self.context.now() < deadline_s:
            await asyncio.sleep(_DRAIN_POLL_S)
            self.relay.collect()  # a client whose dial has just failed is dialled for again
        return self.relay.open_connections

    def _sweep_flows(self) -> None:
        """End flows that were idle for too long, from time to time; and let the relay give back
        what nobody uses any more."""
        self.flows.sweep(self.context.now())
        self.relay.collect()
        interval_s = sweep_interval_s(self.context.timeouts)
        self._sweep = self.context.loop.call_later(interval_s, self._sweep_flows)

    def _programmed(self, desired: DesiredServicePort, now_s: float) -> ProgrammedPort:
        loads = self.relay.loads if desired.name.protocol is Protocol.TCP else open_flows
        return ProgrammedPort(desired, loads, now_s)

    def _configure(self, programmed: ProgrammedPort) -> None:
        for route in programmed.routes:
            self.relay.configure(route)

    # ---- listeners ----

    def _listen(self, programmed: ProgrammedPort, problems: dict[Vip, str]) -> None:
        desired = programmed.desired
        for frontend in desired.frontends:
            vip = frontend.vip
            route = programmed.route(frontend, self.context.now())
            if self._redirected(vip):
                self._table.set(vip, route)
            elif self._listens(desired, frontend):
                problem = self._open(programmed, vip, route, guard_of(desired, frontend))
                if problem is not None:
                    problems[vip] = problem

    def _listens(self, desired: DesiredServicePort, frontend: Frontend) -> bool:
        """Whether a socket has to be there: for traffic that is taken, and, without rules in the
        kernel, to keep it from refusing what is to get no answer."""
        treatment = desired.treatment(frontend)
        if treatment is Treatment.DROP:
            return not self.redirects
        return treatment is not Treatment.REJECT

    def _open(self, programmed: ProgrammedPort, vip: Vip, route: Route, guard: Guard) -> str | None:
        """Listen on `vip`, or take over who listens there; the reason when that fails."""
        try:
            listener = self._listeners.get(vip)
            if listener is None:
                listener = self._listeners[vip] = self._new_listener(vip, route)
            listener.route = route
            listener.set_guard(guard)
        except OSError as error:
            return f"cannot listen: {reason(error)}"
        programmed.listening.add(vip)
        return None

    def _guard_anew(self, problems: dict[Vip, str]) -> None:
        """The Pods' networks have changed."""
        for vip, listener in self._listeners.items():
            try:
                listener.set_guard(listener.guard)
            except OSError as error:
                problems[vip] = f"cannot keep clients out: {reason(error)}"

    def _new_listener(self, vip: Vip, route: Route) -> VipListener | UdpListener:
        if vip.protocol is Protocol.TCP:
            return VipListener(self.context, self.relay, vip.ip, vip.port, route)
        return UdpListener(self.flows, vip.ip, vip.port, route)

    def _close_listeners(self, programmed: ProgrammedPort, vips: set[Vip]) -> None:
        for vip in vips:
            programmed.listening.discard(vip)
            # Another Service port may have taken the address over meanwhile.
            if self._listeners[vip].route.name == programmed.desired.name:
                self._listeners.pop(vip).close()

    def _redirected(self, vip: Vip) -> bool:
        return vip.protocol is Protocol.TCP and any(
            listener.family == vip.family for listener in self.redirects
        )


def _vips(desired: DesiredServicePort) -> set[Vip]:
    return {frontend.vip for frontend in desired.frontends}


def guard_of(desired: DesiredServicePort, frontend: Frontend) -> Guard:
    """Which clients of an address get an answer."""
    treatment = desired.treatment(frontend)
    return Guard(treatment is Treatment.DROP, treatment is Treatment.INSIDE, frontend.allowed)
