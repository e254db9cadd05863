"""The native relay: Python decides, a C engine carries.

Owns the seam: it hands accepted clients to the engine with an endpoint to dial, takes back those
whose dial failed, and folds the engine's counters into `PortStats` and `BackendState` when
somebody wants to read them. A connection that ends well costs Python nothing after its first
dial. What the engine does inside is told in `engine/engine.h`; that there may be none, because
there was no compiler, in `engine_or_reason`.
"""

import errno
import socket
from asyncio import TimerHandle
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from uproxy.dataplane.context import Context
from uproxy.dataplane.descriptors import PIPES_SHARE
from uproxy.dataplane.dial.sockets import dial_failure
from uproxy.dataplane.dial.source_ports import CLIENT_PORTS, local_port_range
from uproxy.dataplane.relay.half_closed import ask_every_s
from uproxy.dataplane.relay.proxy_protocol import header_for
from uproxy.dataplane.relay.waiter import Waiter, wait_or_end
from uproxy.dataplane.relays import Ended
from uproxy.dataplane.trials import splices_exactly, tells_ends, tells_failures
from uproxy.model.closing import CloseReason, DialFailure
from uproxy.model.names import Family
from uproxy.picking.attempts import RESOURCES_RETRY_S, Attempts
from uproxy.picking.backends import BackendState
from uproxy.picking.routes import Route
from uproxy.picking.stats import CONNECT_BUCKETS_S

if TYPE_CHECKING:
    from uproxy.dataplane.relay import _engine

_EVERY_BACKEND = -1


def engine_or_reason() -> str | None:
    """None when the native relay can be used, else why not."""
    try:
        import_module("uproxy.dataplane.relay._engine")
    except ImportError as error:
        return f"the C extension is not there ({error.msg})"
    return None


class NativeArrival:
    """A client's descriptor, not yet a connection."""

    __slots__ = ("_client", "_destination", "_relay", "address")

    def __init__(self, relay: "NativeRelay", client: int, address: str) -> None:
        self._relay = relay
        self._client = client
        self.address = address
        self._destination: bytes | None = None

    def destination(self, family: Family) -> bytes | None:
        """Where it was going before the kernel redirected it."""
        found: bytes | None = self._relay.engine_module.destination(self._client, family)
        self._destination = found
        return found

    def begin(self, route: Route) -> None:
        """Dial one of the route's endpoints, and relay."""
        self._relay.begin(route, self._client, self.address, self._destination)

    def refuse(self) -> None:
        """Close; the client sees a reset."""
        self._relay.engine_module.refuse(self._client)


@dataclass(slots=True)
class _Waiting:
    """A client that is Python's again, until this machine has what a dial needs."""

    attempts: Attempts
    timer: TimerHandle


class NativeRelay:
    """The engine, and which Service port and endpoint each of its numbers stands for."""

    name = "native"

    def __init__(self, context: Context, threads: int, ended: Callable[[Ended], None] | None = None) -> None:
        """Start the engine. Raises ImportError when there is none, OSError without resources."""
        from uproxy.dataplane.relay import _engine

        timeouts, descriptors = context.timeouts, context.descriptors
        self.engine_module = _engine
        self._context = context
        self._ended = ended
        self._engine = _engine.Engine(
            workers=threads,
            connect_ms=_ms(timeouts.connect_s),
            idle_ms=_ms(timeouts.idle_s),
            half_closed_ms=_ms(timeouts.half_closed_s),
            mark=context.mark,
            pipe_descriptors_max=int(descriptors.limit * PIPES_SHARE) if splices_exactly() else 0,
            report_ends=ended is not None,
            connect_bounds_s=CONNECT_BUCKETS_S,
            local_ports=local_port_range(),
            tells_ends=tells_ends(),
            tells_failures=tells_failures(),
            client_ports=CLIENT_PORTS,
        )
        # Looked up once: most connections need no more than these, and each of them pays.
        self._accept = _engine.accept
        self._engine_begin = self._engine.begin
        self._now = context.now
        self._budget_ms = _ms(timeouts.dial_budget_s)
        self._dials_as_itself = context.ways_back is None
        self._reasons = tuple(map(CloseReason, _engine.REASONS))
        self._routes: dict[int, Route] = {}
        self._states: dict[int, BackendState] = {}
        self._redials: dict[int, Attempts] = {}
        """By client descriptor: what connections tried whose first dial failed. An entry outlives the
        connection until the descriptor is used again."""
        self._waiting: dict[int, _Waiting] = {}
        self._in_rooms: dict[int, Waiter] = {}
        self._reports: deque[_engine.Report] = deque()
        self._closed = False
        self._engine.ask_every(ask_every_s())
        descriptors.elsewhere = self._engine.descriptors
        context.loop.add_reader(self._engine.report_fd, self._take_reports)

    @property
    def open_connections(self) -> int:
        """Connections that have begun and not ended."""
        return self._engine.live() + len(self._waiting) + len(self._in_rooms)

    # ---- begin ----

    def accept(self, listener: socket.socket) -> NativeArrival | None:
        """Accept one client; None when nobody waits. Raises OSError as accept(2) does."""
        accepted = self._accept(listener.fileno())
        return NativeArrival(self, *accepted) if accepted is not None else None

    def begin(self, route: Route, client: int, address: str, destination: bytes | None) -> None:
        """The short step that Python takes for each connection."""
        now_s, timeouts = self._now(), self._context.timeouts
        stats = route.stats
        stats.connections += 1
        stats.active += 1
        if self._redials:
            self._redials.pop(client, None)
        state = route.balancer.pick(address, now_s) if route.plain else None
        error = 0
        if state is not None:
            port, backend = route.relay_slot, state.relay_slot
            if port >= 0 and backend >= 0 and self._dials_as_itself:
                bound_ms = self._budget_ms if route.is_alone(state, now_s) else 0
                error = self._engine_begin(client, port, backend, address, 0, b"", False, bound_ms)
            else:
                bound_s = timeouts.dial_budget_s if route.is_alone(state, now_s) else timeouts.connect_s
                error = self._dial(route, state, client, address, bound_s)
        if state is None or error:
            attempts = Attempts(route, address, now_s, timeouts.dial_budget_s, destination)
            if route.room:
                route.room.serve(now_s)  # nobody is overtaken
            self._go_on(attempts, client, state, error)

    def _dial(
        self,
        route: Route,
        state: BackendState,
        client: int,
        address: str,
        bound_s: float,
        *,
        begun_ns: int = 0,
        header: bytes = b"",
    ) -> int:
        """Give the client to the engine: 0, or the errno of a dial that failed at once.

        It may take `bound_s`. From the client's own address it takes no longer than others, until the
        endpoint's answers are known to come here: else the next dial would be from ours.
        """
        port, backend = route.relay_slot, state.relay_slot
        if port < 0:
            port = route.relay_slot = self._engine.add_port()
            self._routes[port] = route
            self.configure(route)
        if backend < 0:
            backend = state.relay_slot = self._engine.add_backend(*state.address)
            self._states[backend] = state
        as_client = self._context.keeps_address(address, state.address[0])
        proven = state.connections or not as_client
        bound_ms = _ms(bound_s) if proven and bound_s > self._context.timeouts.connect_s else 0
        return self._engine.begin(client, port, backend, address, begun_ns, header, as_client, bound_ms)

    def _go_on(self, attempts: Attempts, client: int, state: BackendState | None, error: int) -> None:
        """After `state` failed with `error`: the next endpoint, until one is dialled or all have failed.

        Without a `state` there is nothing to go on from: the first is still to be asked for.
        """
        while True:
            now_s = self._context.now()
            if error == errno.ELOOP:
                self._refuse(attempts, client, CloseReason.HOP_LIMIT)
                return
            if state is not None and not self._blame(attempts, client, state, error, now_s):
                return
            state = attempts.next(now_s)
            if state is None:
                self._wait_or_end(attempts, client, now_s)
                return
            error = self._dial_again(attempts, client, state)
            if error == 0:
                return

    def _dial_again(self, attempts: Attempts, client: int, state: BackendState) -> int:
        """Dial on behalf of a client for which this is not the short step of `begin`."""
        self._redials[client] = attempts
        begun_ns = int(attempts.started_s * 1e9)
        route = attempts.route
        header = _header(client, attempts.destination) if route.options.proxy_protocol else b""
        bound_s = attempts.bound_s(state, self._context.timeouts.connect_s, self._now())
        address = attempts.client_address
        return self._dial(route, state, client, address, bound_s, begun_ns=begun_ns, header=header)

    def _wait_or_end(self, attempts: Attempts, client: int, now_s: float) -> None:
        found = wait_or_end(self._context, attempts, now_s)
        if isinstance(found, CloseReason):
            self._refuse(attempts, client, found)
            return
        dial, end = partial(self._dial_after_wait, attempts, client), partial(self._refuse, attempts, client)
        try:
            self._in_rooms[client] = Waiter(self._context, client, attempts, found, dial=dial, end=end)
            self._context.descriptors.used += 1  # the client's, which the engine does not count
        except OSError:
            self._refuse(attempts, client, CloseReason.NO_RESOURCES)

    def _dial_after_wait(self, attempts: Attempts, client: int, state: BackendState) -> None:
        self._forget_wait(client)
        error = self._dial_again(attempts, client, state)
        if error:
            self._go_on(attempts, client, state, error)

    def _forget_wait(self, client: int) -> None:
        if self._in_rooms.pop(client, None) is not None:
            self._context.descriptors.released(1)

    def _blame(self, attempts: Attempts, client: int, state: BackendState, error: int, now_s: float) -> bool:
        """Count a failed dial. False when it was this machine's fault, and the client has to wait."""
        failure = dial_failure(error)
        if failure is DialFailure.TIMEOUT:
            self._context.dial_timed_out(state.address[0])
        if failure is not DialFailure.NO_RESOURCES:
            self._forgive(state)
            attempts.failed(state, failure, now_s)
            return True
        attempts.route.stats.dial_failed(failure)
        timer = self._context.loop.call_later(RESOURCES_RETRY_S, self._dial_later, client)
        self._waiting[client] = _Waiting(attempts, timer)
        return False

    def _forgive(self, state: BackendState) -> None:
        """A backend that answered since its last failure starts anew; the engine keeps count."""
        joined = self._engine.joined(state.relay_slot)
        if joined != state.joined_at_failure:
            state.joined_at_failure = joined
            state.answered()

    def _dial_later(self, client: int) -> None:
        self._go_on(self._waiting.pop(client).attempts, client, None, 0)

    def _refuse(self, attempts: Attempts, client: int, reason: CloseReason) -> None:
        """End a connection that has no backend: the client sees a reset."""
        self._forget_wait(client)
        self.engine_module.refuse(client)
        self._redials.pop(client, None)
        stats = attempts.route.stats
        stats.active -= 1
        stats.closed(reason)
        if self._ended is not None:
            lasted_s = self._context.now() - attempts.started_s
            self._ended(Ended(attempts.route.name, attempts.client_address, None, 0, 0, lasted_s, reason))

    def configure(self, route: Route) -> None:
        """Have the engine know what a route's Service asks for."""
        if route.relay_slot >= 0:
            age_s = route.options.max_connection_age_s
            self._engine.set_port(route.relay_slot, route.limit is not None, int((age_s or 0) * 1000))

    # ---- what the engine tells ----

    def _take_reports(self, ending: CloseReason | None = None) -> None:
        """Deal with everything that the engine has told; clients whose dial failed are dialled for
        again, unless everything is `ending`."""
        self._reports.extend(self._engine.reports())
        try:
            while self._reports:
                report = self._reports.popleft()
                if report.failed_dial:
                    self._dial_failed(report, ending)
                else:
                    self._tell_end(report)
                if ending is None:
                    self._serve_who_waits(report)
        finally:
            if self._reports:  # a callback raised: a bug, but no other connection's
                self._context.loop.call_soon(self._take_reports)

    def _dial_failed(self, report: "_engine.Report", ending: CloseReason | None) -> None:
        """The engine gave a client back."""
        client = report.client_fd
        attempts = self._redials.get(client)
        if attempts is None:
            started_s = self._context.now() - report.lasted_s
            budget_s = self._context.timeouts.dial_budget_s
            attempts = Attempts(self._routes[report.port], report.client, started_s, budget_s)
        if ending is not None:
            self._refuse(attempts, client, ending)
            return
        self._go_on(attempts, client, self._states[report.backend], report.code)

    def _serve_who_waits(self, report: "_engine.Report") -> None:
        """A connection has given its place back."""
        room = self._routes[report.port].room
        if room:
            room.serve(self._context.now())

    def _tell_end(self, report: "_engine.Report") -> None:
        if self._ended is not None:
            self._ended(
                Ended(
                    self._routes[report.port].name,
                    report.client,
                    self._states[report.backend].backend,
                    report.bytes_to_backend,
                    report.bytes_to_client,
                    report.lasted_s,
                    self._reasons[report.code],
                )
            )

    # ---- counts ----

    def loads(self, states: Sequence[BackendState]) -> Sequence[int]:
        """How many connections each of some backends has now, dials under way included."""
        return self._engine.open([state.relay_slot for state in states])

    def collect(self) -> None:
        """Fold in what the engine counted since the last time."""
        if self._closed:
            return
        self._engine.ask_every(ask_every_s())
        self._take_reports()  # so that no slot is given up that a report still names
        ports, backends = self._engine.collect()
        for slot, to_backend, to_client, closes, connects, connect_s in ports:
            stats = self._routes[slot].stats
            stats.bytes_to_backend += to_backend
            stats.bytes_to_client += to_client
            stats.connect_time.add(connects, connect_s)
            for reason, count in zip(self._reasons, closes, strict=True):
                if count:
                    stats.closes[reason] = stats.closes.get(reason, 0) + count
                    stats.active -= count
        for slot, joined, active in backends:
            state = self._states[slot]
            state.connections += joined
            state.active = active
        self._give_up_slots()

    def _give_up_slots(self) -> None:
        """Routes and backends that nobody can be sent to, and that have no connection left."""
        for slot, route in list(self._routes.items()):
            if not route.balancer.backends and self._engine.drop_port(slot):
                del self._routes[slot]
                route.relay_slot = -1
        for slot, state in list(self._states.items()):
            if not state.usable and self._engine.drop_backend(slot):
                del self._states[slot]
                state.relay_slot = -1
                state.joined_at_failure = 0

    # ---- the end ----

    def reset(self, reason: CloseReason, state: BackendState | None = None) -> None:
        """End every connection, or every one to a backend; done when this returns."""
        backend = _EVERY_BACKEND if state is None else state.relay_slot
        if state is None:
            for client, waiting in list(self._waiting.items()):
                waiting.timer.cancel()
                del self._waiting[client]
                self._refuse(waiting.attempts, client, reason)
            for waiter in list(self._in_rooms.values()):
                waiter.give_up(reason)
        elif backend < 0:
            return  # never dialled
        self._engine.reset(self._reasons.index(reason), backend)
        if state is None:  # collecting looks at every endpoint, too much for the end of one
            self._take_reports(ending=reason)
            self.collect()

    def close(self) -> None:
        """Reset what is still open, and end the engine's threads. Twice is fine."""
        if self._closed:
            return
        self.reset(CloseReason.SHUTDOWN)
        self._context.loop.remove_reader(self._engine.report_fd)
        self._context.descriptors.elsewhere = int
        self._engine.close()
        self._closed = True


def _header(client: int, destination: bytes | None) -> bytes:
    sock = socket.socket(fileno=client)
    try:
        return header_for(sock, destination)
    finally:
        sock.detach()


def _ms(seconds: float) -> int:
    """Milliseconds, at least one, and no more than the engine's clock can tell apart."""
    return max(1, min(int(seconds * 1000), 2**31 - 1))
