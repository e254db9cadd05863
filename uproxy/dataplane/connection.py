"""The life of one TCP connection: accepted, dialled, relayed, ended.

Owns the dial: next endpoint on failure, each at most once, within a budget; and that every
connection ends with exactly one CloseReason. Callbacks only: no task, no await, and
nothing in the accept path that could wait.
"""

import errno
import socket
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from dataclasses import dataclass, field

from uproxy.dataplane.backends import BackendState
from uproxy.dataplane.descriptors import Descriptors
from uproxy.dataplane.reactor import Reactor
from uproxy.dataplane.relay import Joined, Relay
from uproxy.dataplane.routes import Route
from uproxy.dataplane.sockets import begin_connect, close_with_reset, dial_failure, stream_to
from uproxy.dataplane.source_ports import SourcePorts
from uproxy.model.closing import CloseReason, DialFailure

_RESOURCES_RETRY_S = 0.1


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long things may take, in seconds."""

    connect_s: float
    """One dial of one endpoint."""
    dial_budget_s: float
    """All dials of one connection."""
    idle_s: float
    """No byte in either direction."""
    half_closed_s: float
    """The same, after one side has finished sending."""


@dataclass(slots=True)
class Context:
    """What every connection of one proxy shares."""

    loop: AbstractEventLoop
    reactor: Reactor
    relay: Relay
    descriptors: Descriptors
    timeouts: Timeouts
    mark: int
    """SO_MARK of dials; 0 sets none."""
    node_ports_on_loopback: bool
    """Whether UDP NodePorts answer on loopback addresses too. TCP ones are the kernel's to steer."""
    now: Callable[[], float]
    access: "Callable[[Connection, CloseReason], None] | None" = None
    """Told of every ended connection, when somebody wants an access log."""
    source_ports: SourcePorts = field(default_factory=SourcePorts)
    live: "dict[Connection, None]" = field(default_factory=dict)
    """Every open connection, oldest first."""


class Connection:
    """One client's connection to one Service port."""

    __slots__ = (
        "_context",
        "_deadline_s",
        "_timer",
        "_tried",
        "backend",
        "client",
        "client_address",
        "dial_started_s",
        "joined",
        "quiet_bytes",
        "quiet_since_s",
        "route",
        "server",
        "started_s",
    )

    backend: BackendState

    def __init__(self, context: Context, route: Route, client: socket.socket, client_address: str) -> None:
        self._context = context
        self.route = route
        self.client = client
        self.client_address = client_address
        self.server: socket.socket | None = None
        """The socket of a dial under way."""
        self.joined: Joined | None = None
        self._tried: list[BackendState] = []
        self._timer: TimerHandle | None = None
        self.started_s = self.quiet_since_s = context.now()
        self._deadline_s = self.started_s + context.timeouts.dial_budget_s
        self.quiet_bytes = 0
        context.descriptors.used += 2
        context.live[self] = None
        stats = route.stats
        stats.connections += 1
        stats.active += 1
        self._dial(self.started_s)

    # ---- dialling ----

    def _dial(self, now_s: float) -> None:
        """Dial the next endpoint; on to the one after it when that fails at once."""
        context = self._context
        while now_s < self._deadline_s:
            state = self.route.balancer.pick(self.client_address, now_s, self._tried)
            if state is None:
                break
            self.backend = state
            self.dial_started_s = now_s
            error, server = self._connect(state)
            if server is not None:
                return self._connected(server, context.now()) if error == 0 else self._await_handshake(server)
            failure = dial_failure(error)
            if failure is DialFailure.NO_RESOURCES:
                return self._dial_later()
            self._dial_failed(failure, now_s)
            now_s = context.now()
        nobody_there = not self._tried and now_s < self._deadline_s
        return self.refuse(CloseReason.NO_ENDPOINTS if nobody_there else CloseReason.DIAL_FAILED)

    def _connect(self, state: BackendState) -> tuple[int, socket.socket | None]:
        """Begin to connect: a socket, with 0 when it is connected already; or an errno alone."""
        context = self._context
        try:
            server = stream_to(state.family, context.mark)
            code = begin_connect(server, state.address)
            if code in (0, errno.EALREADY):
                return code, server
            server.close()
            if code == errno.EADDRNOTAVAIL:
                return context.source_ports.dial(state.family, state.address, context.mark)
        except OSError as error:
            return error.errno or errno.EIO, None
        return code, None

    def _await_handshake(self, server: socket.socket) -> None:
        context = self._context
        self.server = server
        self._timer = context.loop.call_later(context.timeouts.connect_s, self._timed_out)
        context.reactor.watch(server.fileno(), self)

    def on_events(self, _events: int) -> None:
        """The dial's socket is ready: connected, or failed."""
        server = self.server
        error = server.connect_ex(self.backend.address) if server is not None else errno.EALREADY
        if error == errno.EALREADY:
            return  # a stale event
        now_s = self._context.now()
        if server is not None and error in (0, errno.EISCONN):
            self._context.reactor.release(server.fileno())
            self.server = None
            self._cancel_timer()
            self._connected(server, now_s)
            return
        self._abandon_dial()
        self._dial_failed(dial_failure(error), now_s)
        self._dial(now_s)

    def _timed_out(self) -> None:
        self._abandon_dial()
        now_s = self._context.now()
        self._dial_failed(DialFailure.TIMEOUT, now_s)
        self._dial(now_s)

    def _dial_later(self) -> None:
        """This machine lacks something, which is not the endpoint's fault and may come back."""
        self.route.stats.dial_failed(DialFailure.NO_RESOURCES)
        self._timer = self._context.loop.call_later(_RESOURCES_RETRY_S, self._dial_again)

    def _dial_again(self) -> None:
        self._timer = None
        self._dial(self._context.now())

    def _abandon_dial(self) -> None:
        self._cancel_timer()
        if self.server is not None:
            self._context.reactor.release(self.server.fileno())
            self.server.close()
            self.server = None

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _dial_failed(self, failure: DialFailure, now_s: float) -> None:
        self._tried.append(self.backend)
        self.route.stats.dial_failed(failure)
        self.backend.failed(now_s)

    def _connected(self, server: socket.socket, now_s: float) -> None:
        state = self.backend
        state.answered()
        state.connections += 1
        state.active += 1
        self.route.stats.connect_time.record(now_s - self.dial_started_s)
        self.joined = self._context.relay.join(self.client, server, self._ended)

    # ---- ending ----

    def refuse(self, reason: CloseReason) -> None:
        """End a connection that has no backend: the client sees a reset."""
        close_with_reset(self.client)
        self._account(reason)

    def reset(self, reason: CloseReason) -> None:
        """End at once, in whatever state it is."""
        if self.joined is not None:
            self.joined.reset(reason)
            return
        self._abandon_dial()
        self.refuse(reason)

    def _ended(self, reason: CloseReason) -> None:
        to_backend, to_client = self.bytes_relayed()
        stats = self.route.stats
        stats.bytes_to_backend += to_backend
        stats.bytes_to_client += to_client
        self.backend.active -= 1
        self._account(reason)

    def _account(self, reason: CloseReason) -> None:
        context = self._context
        self.route.stats.active -= 1
        self.route.stats.closed(reason)
        context.descriptors.released(2)
        del context.live[self]
        if context.access is not None:
            context.access(self, reason)

    # ---- seen from outside ----

    def bytes_relayed(self) -> tuple[int, int]:
        """Bytes so far, to the backend and to the client."""
        joined = self.joined
        return (joined.bytes_to_backend, joined.bytes_to_client) if joined is not None else (0, 0)
