"""The life of one TCP connection of the Python relay: dialled, relayed, ended.

Owns that every connection ends with exactly one CloseReason. Callbacks only: no task, no
await, and nothing in the accept path that could wait. Whom to dial, `picking/attempts.py` says.
"""

import errno
import socket
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from dataclasses import dataclass

from uproxy.dataplane.context import Context
from uproxy.dataplane.dial.hops import hops_of
from uproxy.dataplane.dial.sockets import begin_connect, close_with_reset, dial_failure, peer_of, stream_to
from uproxy.dataplane.dial.source_ports import SourcePorts
from uproxy.dataplane.relay.pair import Pair
from uproxy.dataplane.relay.pipes import Pipes
from uproxy.dataplane.relay.proxy_protocol import header_for
from uproxy.dataplane.relay.waiter import Waiter, wait_or_end
from uproxy.dataplane.relays import Ended
from uproxy.model.closing import CloseReason, DialFailure
from uproxy.picking.attempts import RESOURCES_RETRY_S, Attempts
from uproxy.picking.backends import BackendState
from uproxy.picking.routes import Route


@dataclass(slots=True)
class Connections:
    """What all connections of the Python relay share."""

    context: Context
    pipes: Pipes
    source_ports: SourcePorts
    live: "dict[Connection, None]"
    """Every open connection, oldest first."""
    ended: Callable[[Ended], None] | None
    """Told of every ended connection, when somebody wants an access log."""

    @property
    def loop(self) -> AbstractEventLoop:
        """Where timers run."""
        return self.context.loop


class Connection:
    """One client's connection to one Service port."""

    __slots__ = (
        "_attempts",
        "_counted",
        "_hops",
        "_shared",
        "_timer",
        "_waiter",
        "backend",
        "client",
        "dial_started_s",
        "pair",
        "quiet_bytes",
        "quiet_since_s",
        "server",
    )

    backend: BackendState
    """The endpoint that is dialled, then the one that answered."""

    def __init__(
        self,
        shared: Connections,
        route: Route,
        client: socket.socket,
        client_address: str,
        destination: bytes | None,
    ) -> None:
        """`destination` is where the client was going, when its socket does not tell."""
        self._shared = shared
        context = shared.context
        now_s = context.now()
        self.client = client
        self.server: socket.socket | None = None
        """The socket of a dial under way."""
        self.pair: Pair | None = None
        budget_s = context.timeouts.dial_budget_s
        self._attempts = Attempts(route, client_address, now_s, budget_s, destination)
        self._timer: TimerHandle | None = None
        self._waiter: Waiter | None = None
        self._counted = (0, 0)
        self._hops = hops_of(client)
        self.quiet_since_s = now_s
        self.quiet_bytes = 0
        context.descriptors.used += 2
        shared.live[self] = None
        stats = route.stats
        stats.connections += 1
        stats.active += 1
        if route.room:
            route.room.serve(now_s)  # nobody is overtaken
        self._dial(now_s, None)

    # ---- dialling ----

    def _dial(self, now_s: float, first: BackendState | None) -> None:
        """Dial `first`, or the next endpoint; on to the one after it when that fails at once."""
        attempts, now = self._attempts, self._shared.context.now
        if self._hops == 1:
            return self._refuse(CloseReason.HOP_LIMIT)
        state = first or attempts.next(now_s)
        while state is not None:
            self.backend = state
            self.dial_started_s = now_s
            error, server = self._connect(state)
            if server is not None:
                state.taken += 1
                if error == 0:
                    return self._connected(server, now())
                error = self._await_handshake(server, now())
                if error == 0:
                    return None
                state.taken -= 1
            failure = dial_failure(error)
            if failure is DialFailure.NO_RESOURCES:
                return self._dial_later()
            attempts.failed(state, failure, now_s)
            now_s = now()
            state = attempts.next(now_s)
        return self._wait_or_end(now_s)

    def _wait_or_end(self, now_s: float) -> None:
        found = wait_or_end(self._shared.context, self._attempts, now_s)
        if isinstance(found, CloseReason):
            self._refuse(found)
            return
        try:
            self._waiter = Waiter(
                self._shared.context,
                self.client.fileno(),
                self._attempts,
                found,
                dial=self._dial_after_wait,
                end=self._end_after_wait,
            )
        except OSError:
            self._refuse(CloseReason.NO_RESOURCES)

    def _dial_after_wait(self, state: BackendState) -> None:
        self._waiter = None
        self._dial(self._shared.context.now(), state)

    def _end_after_wait(self, reason: CloseReason) -> None:
        self._waiter = None
        self._refuse(reason)

    def _connect(self, state: BackendState) -> tuple[int, socket.socket | None]:
        """Begin to connect: a socket, with 0 when it is connected already; or an errno alone."""
        context = self._shared.context
        mark = context.mark
        try:
            if context.keeps_address(self._attempts.client_address, state.address[0]):
                client = peer_of(self.client)
                if client is not None:
                    return self._shared.source_ports.dial_as(
                        client, state.family, state.address, mark, self._hops
                    )
            server = stream_to(state.family, mark, self._hops)
            code = begin_connect(server, state.address)
            if code in (0, errno.EALREADY):
                return code, server
            server.close()
            if code == errno.EADDRNOTAVAIL:
                return self._shared.source_ports.dial(state.family, state.address, mark, self._hops)
        except OSError as error:
            return error.errno or errno.EIO, None
        return code, None

    def _await_handshake(self, server: socket.socket, now_s: float) -> int:
        """Be told when it is over: 0, or the errno for which that cannot be, and the socket is closed."""
        context = self._shared.context
        try:
            context.reactor.watch(server.fileno(), self)
        except OSError as error:
            server.close()
            return error.errno or errno.ENOMEM
        self.server = server
        connect_s, endpoint = context.timeouts.connect_s, self.backend.address[0]
        if self.backend.connections or not context.keeps_address(self._attempts.client_address, endpoint):
            connect_s = self._attempts.bound_s(self.backend, connect_s, now_s)
        self._timer = context.loop.call_later(connect_s, self._timed_out)
        return 0

    def on_events(self, _events: int) -> None:
        """The dial's socket is ready: connected, or failed."""
        server = self.server
        error = server.connect_ex(self.backend.address) if server is not None else errno.EALREADY
        if error == errno.EALREADY:
            return  # a stale event
        now_s = self._shared.context.now()
        if server is not None and error in (0, errno.EISCONN):
            self._shared.context.reactor.release(server.fileno())
            self.server = None
            self._cancel_timer()
            self._connected(server, now_s)
            return
        self._failed(dial_failure(error), now_s)

    def _timed_out(self) -> None:
        self._shared.context.dial_timed_out(self.backend.address[0])
        self._failed(DialFailure.TIMEOUT, self._shared.context.now())

    def _failed(self, failure: DialFailure, now_s: float) -> None:
        self._abandon_dial()
        self._attempts.failed(self.backend, failure, now_s)
        self._dial(now_s, None)
        self._attempts.route.room.serve(now_s)  # the failed one had taken a place

    def _dial_later(self) -> None:
        self._attempts.route.stats.dial_failed(DialFailure.NO_RESOURCES)
        self._timer = self._shared.loop.call_later(RESOURCES_RETRY_S, self._dial_again)

    def _dial_again(self) -> None:
        self._timer = None
        self._dial(self._shared.context.now(), None)

    def _abandon_dial(self) -> None:
        self._cancel_timer()
        if self.server is not None:
            self._shared.context.reactor.release(self.server.fileno())
            self.server.close()
            self.server = None
            self.backend.taken -= 1

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _connected(self, server: socket.socket, now_s: float) -> None:
        state = self.backend
        state.answered()
        state.connections += 1
        state.active += 1
        attempts, shared = self._attempts, self._shared
        attempts.route.stats.connect_time.record(now_s - self.dial_started_s)
        self.pair = pair = Pair(shared.context.reactor, shared.pipes, self.client, server, self._ended)
        if pair.start() and attempts.route.options.proxy_protocol:
            pair.up.begin_with(header_for(self.client, attempts.destination))

    # ---- ending ----

    def _refuse(self, reason: CloseReason) -> None:
        """End a connection that has no backend: the client sees a reset."""
        close_with_reset(self.client)
        self._account(reason)

    @property
    def max_age_s(self) -> float | None:
        """How old its Service lets connections get; None for any age."""
        return self._attempts.route.options.max_connection_age_s

    def has(self, state: BackendState) -> bool:
        """Whether it is connected to an endpoint, or dials it."""
        return (self.pair is not None or self.server is not None) and self.backend is state

    def reset(self, reason: CloseReason) -> None:
        """End at once, in whatever state it is. Without effect on one that is over."""
        if self.pair is not None:
            self.pair.reset(reason)
        elif self in self._shared.live:
            if self._waiter is not None:
                self._waiter.leave()
                self._waiter = None
            self._abandon_dial()
            self._refuse(reason)

    def _ended(self, reason: CloseReason) -> None:
        self.count_bytes()
        self.backend.active -= 1
        self.backend.taken -= 1
        self._account(reason)
        room = self._attempts.route.room
        if room:
            room.serve(self._shared.context.now())

    def _account(self, reason: CloseReason) -> None:
        shared, stats = self._shared, self._attempts.route.stats
        stats.active -= 1
        stats.closed(reason)
        shared.context.descriptors.released(2)
        del shared.live[self]
        if shared.ended is not None:
            shared.ended(self._record(reason))

    def _record(self, reason: CloseReason) -> Ended:
        attempts, pair = self._attempts, self.pair
        return Ended(
            attempts.route.name,
            attempts.client_address,
            self.backend.backend if pair is not None else None,
            *(self._counted if pair is not None else (0, 0)),
            self._shared.context.now() - attempts.started_s,
            reason,
        )

    def count_bytes(self) -> None:
        """Add what was relayed since the last time to the Service port's counts."""
        pair = self.pair
        if pair is None:
            return
        to_backend, to_client = pair.bytes_to_backend, pair.bytes_to_client
        stats = self._attempts.route.stats
        stats.bytes_to_backend += to_backend - self._counted[0]
        stats.bytes_to_client += to_client - self._counted[1]
        self._counted = (to_backend, to_client)
