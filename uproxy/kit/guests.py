"""Who is connected to a server of our own: how many, how many of one client, and for how long.

Owns accepting, for every server that strangers reach and that is not the data plane: HTTP, health checks
of Services, DNS by TCP. Refuses to trust: what a client does wrong, and what a protocol raises because of
it, is counted and ends that connection, and nothing else. So accepting is done here, by accept(2), which
always says who came; a transport of asyncio's cannot once the client has reset (`peername` is None), and
uvloop's servers close for good after an error of accept(2).

When there are too many, the longest idle connection of whoever has most goes, so that one client takes
its own places and nobody else's.
"""

import asyncio
import errno
import socket
import struct
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Any, NamedTuple, Protocol, cast

from uproxy.kit.mishaps import Mishaps

_BATCH = 64
"""After so many newcomers others have a turn."""
_PAUSE_S = 0.1
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: close with a reset."""
_ALWAYS = 32
"""So many connections a server may have even while descriptors are scarce: they come out of those that
the data plane leaves aside."""


class Budget(Protocol):
    """The descriptors of this process."""

    used: int

    @property
    def scarce(self) -> bool:
        """Whether there are too few for others."""
        ...

    def released(self, count: int) -> None:
        """`count` descriptors were closed."""
        ...


class Limits(NamedTuple):
    """Connections that a server has at once."""

    most: int = 64
    most_of_one: int = 16
    """Of one IPv4 address, or one IPv6 /64."""


class Guests:
    """Those of one server. `name` is what metrics call it."""

    def __init__(self, name: str, limits: Limits, budget: Budget | None = None) -> None:
        self.name = name
        self.limits = limits
        self.budget = budget
        self.ended: Counter[str] = Counter()
        """Connections that were refused, or ended by this side, by reason."""
        self._count = 0
        self._of: dict[str, dict[Guest, None]] = {}
        """By client, the longest idle first."""
        self._mishaps = Mishaps()

    def __len__(self) -> int:
        return self._count

    def enter(self, guest: "Guest") -> bool:
        """Take one more in, in the place of another if need be; False when there is none."""
        mine = self._of.get(guest.client, {})
        if (len(mine) >= self.limits.most_of_one or self._is_full()) and not self._make_room(mine):
            self.ended["refused"] += 1
            return False
        self._of.setdefault(guest.client, {})[guest] = None
        self._count += 1
        if self.budget is not None:
            self.budget.used += 1
        return True

    def _is_full(self) -> bool:
        scarce = self.budget is not None and self._count >= _ALWAYS and self.budget.scarce
        return scarce or self._count >= self.limits.most

    def _make_room(self, mine: "dict[Guest, None]") -> bool:
        crowd = mine
        if len(mine) < self.limits.most_of_one:
            biggest = max(self._of.values(), key=len)
            crowd = biggest if len(biggest) > len(mine) else mine
        idle = next((guest for guest in crowd if not guest.busy), None)
        if idle is not None:
            idle.end("displaced")
        return idle is not None

    def used(self, guest: "Guest") -> None:
        """It did something useful: it is the last of its client's to go now."""
        mine = self._of.get(guest.client, {})
        if guest in mine:
            del mine[guest]
            mine[guest] = None

    def leave(self, guest: "Guest") -> None:
        """One fewer."""
        mine = self._of.get(guest.client, {})
        if guest not in mine:
            return
        del mine[guest]
        if not mine:
            del self._of[guest.client]
        self._count -= 1
        if self.budget is not None:
            self.budget.released(1)

    def failed(self, error: BaseException) -> None:
        """Count what nobody expected; the log has the first of its kind."""
        self.ended["failed"] += 1
        self._mishaps.tell(f"a connection to the {self.name} server", error)

    def close(self) -> None:
        """End all."""
        for mine in list(self._of.values()):
            for guest in list(mine):
                guest.end("closing")


class Guest(asyncio.Protocol):
    """One connection, and the protocol that speaks on it, whatever that raises."""

    def __init__(self, guests: Guests, client: str) -> None:
        self.client = client
        """Who shares a limit."""
        self.busy = False
        """An answer is being made: this is no time to end."""
        self.inner: asyncio.Protocol | None = None
        self._guests = guests
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_over = False

    def wait(self, most_s: float) -> None:
        """End it after so long, unless something is said again before."""
        self.rest()
        if not self._is_over:
            self._timer = asyncio.get_running_loop().call_later(most_s, self._safely, self.on_time)

    def rest(self) -> None:
        """Wait for nothing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def on_time(self) -> None:
        """The time that `wait` gave is over."""
        self.end("too slow")

    def used(self) -> None:
        """Something useful was done."""
        self._guests.used(self)

    def end(self, reason: str) -> None:
        """End it now, with a reset, and count why."""
        if not self._is_over:
            self._guests.ended[reason] += 1
            self._abort()

    def _abort(self) -> None:
        if not self._is_over:
            self._over()
            if self._transport is not None:
                self._transport.abort()

    def _over(self) -> None:
        self._is_over = True
        self.rest()
        self._guests.leave(self)

    def _safely(self, call: Callable[..., Any] | None, *given: object) -> Any:  # noqa: ANN401
        if call is None:
            return None
        try:
            return call(*given)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is about this connection
            self._guests.failed(error)
            self._abort()
            return None

    # ---- what asyncio calls ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """There is a transport; perhaps too late."""
        self._transport = cast(asyncio.Transport, transport)
        if self._is_over:
            self._transport.abort()
        elif self.inner is not None:
            self._safely(self.inner.connection_made, transport)

    def data_received(self, data: bytes) -> None:
        """Octets."""
        if not self._is_over and self.inner is not None:
            self._safely(self.inner.data_received, data)

    def eof_received(self) -> bool | None:
        """The client says no more."""
        if self._is_over or self.inner is None:
            return None
        return cast(bool | None, self._safely(self.inner.eof_received))

    def pause_writing(self) -> None:
        """The client does not read."""
        if self.inner is not None:
            self._safely(self.inner.pause_writing)

    def resume_writing(self) -> None:
        """It reads again."""
        if self.inner is not None:
            self._safely(self.inner.resume_writing)

    def connection_lost(self, error: Exception | None) -> None:
        """Over."""
        self._over()
        self._transport = None
        if self.inner is not None:
            self._safely(self.inner.connection_lost, error)
            self.inner = None


class Door:
    """A listening socket, and what is made of those who come. `greet` makes the guest of a client's
    name, its `inner` included."""

    def __init__(
        self, listener: socket.socket, guests: Guests, greet: Callable[[str, str], Guest], backlog: int = 128
    ) -> None:
        """Raises OSError when the socket cannot listen."""
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._guests = guests
        self._greet = greet
        self._arriving: set[asyncio.Task[None]] = set()
        self._paused: asyncio.TimerHandle | None = None
        listener.setblocking(False)
        listener.listen(backlog)
        self.address: tuple[str, int] = listener.getsockname()[:2]
        self._loop.add_reader(listener.fileno(), self._accept)

    def close(self) -> None:
        """Let nobody in any more; those who are inside stay."""
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()
        if self._paused is not None:
            self._paused.cancel()

    def _accept(self) -> None:
        for _ in range(_BATCH):
            try:
                stream, address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause()
                    return
                self._guests.ended["gone"] += 1
                continue
            try:
                self._admit(stream, str(address[0]))
            except Exception as error:  # noqa: BLE001 - about this one, whatever it is
                self._guests.failed(error)
                stream.close()

    def _pause(self) -> None:
        """Others hold what accept(2) needs: look again in a moment, instead of all the time."""
        self._guests.ended["no descriptors"] += 1
        self._loop.remove_reader(self._listener.fileno())
        self._paused = self._loop.call_later(_PAUSE_S, self._resume)

    def _resume(self) -> None:
        self._paused = None
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def _admit(self, stream: socket.socket, ip: str) -> None:
        guest = self._greet(ip, _client(ip))
        if not self._guests.enter(guest):
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            stream.close()
            return
        stream.setblocking(False)
        arriving = self._loop.create_task(self._connect(guest, stream), name=f"{self._guests.name}-guest")
        self._arriving.add(arriving)
        arriving.add_done_callback(self._arriving.discard)

    async def _connect(self, guest: Guest, stream: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: guest, stream)
        except Exception as error:  # noqa: BLE001 - about this one, whatever it is
            stream.close()
            self._guests.leave(guest)
            if isinstance(error, OSError):
                self._guests.ended["gone"] += 1
            else:
                self._guests.failed(error)


def _client(ip: str) -> str:
    """Who shares a limit: an IPv4 address, or an IPv6 /64, which is what one host can have."""
    if ":" not in ip:
        return ip
    address = IPv6Address(ip.partition("%")[0])
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return address.packed[:8].hex()


def is_of_a_guest(context: dict[str, Any]) -> bool:
    """Whether what an event loop's exception handler is told of is one connection's matter."""
    if isinstance(context.get("protocol"), Guest):
        return True
    transport = context.get("transport")
    return isinstance(transport, asyncio.Transport) and isinstance(transport.get_protocol(), Guest)
