"""The bytes of the Python relay: two connected sockets become one connection.

Owns half-close in both orders, resets in both directions, back-pressure, counting. Refuses to
know Services, endpoints or policy; it is given two sockets and says how it ended. The native
relay follows the same rules (engine/relay.c).

Small messages go by readv(2) and write(2) through one scratch buffer that all connections share.
After two full buffers in a row the direction changes to splice(2) through a pipe, which
moves pages without copying them. Bounded memory: while the sink has no room, the source
is not read, so a direction holds at most one scratch buffer or one pipe.
"""

import errno
import os
import socket
from collections.abc import Callable

from uproxy.dataplane.dial.sockets import (
    ask_often,
    bound_unsent,
    close_with_reset,
    has_failed,
    keep_alive,
    ours_to_lack,
)
from uproxy.dataplane.reactor import FAILED, HUNG_UP, PEER_DONE, READABLE, URGENT, WRITABLE, Reactor
from uproxy.dataplane.relay.pipes import PIPE_BYTES, Pipe, Pipes
from uproxy.model.closing import CloseReason

CHUNK_BYTES = 64 * 1024
_STEPS_A_TURN = 8
_FULL_CHUNKS_BEFORE_SPLICE = 2
_SMALL_BYTES = 16 * 1024
_SMALL_FILLS_BEFORE_COPY = 8
_SPLICE_FLAGS = 0x01 | 0x02  # SPLICE_F_MOVE | SPLICE_F_NONBLOCK; named in os only from 3.13 on

_AFTER_ITS_END = (errno.EPIPE, errno.ENOTCONN)
_TROUBLE = PEER_DONE | FAILED | HUNG_UP | URGENT

_readv, _write = os.readv, os.write  # looked up for every message
_SCRATCH = bytearray(CHUNK_BYTES)
_SCRATCHES = (_SCRATCH,)
_VIEW = memoryview(_SCRATCH)
_PREFIXES_COUNT = 2049
_PREFIXES = [_VIEW[:count] for count in range(_PREFIXES_COUNT)]
"""Ready-made views, because most messages are small, and making one costs as much as using it."""


class Pair:
    """Two joined sockets, and the two directions between them."""

    __slots__ = (
        "_asks_often",
        "_ended",
        "_kept_alive",
        "_reactor",
        "closed",
        "down",
        "first_eof",
        "last",
        "up",
    )

    def __init__(
        self,
        reactor: Reactor,
        pipes: Pipes,
        client: socket.socket,
        server: socket.socket,
        ended: Callable[[CloseReason], None],
    ) -> None:
        """Relay between two connected non-blocking sockets, neither of them watched yet, which
        the pair owns from now on. `ended` is called exactly once, with both of them closed."""
        self._reactor = reactor
        self._ended = ended
        self.closed = False
        self._kept_alive = self._asks_often = False
        self.first_eof: Direction | None = None
        self.up = up = Direction(self, reactor, pipes, client, server)
        self.down = down = Direction(self, reactor, pipes, server, client)
        self.last = down
        """The direction of the last bytes, noted for `at_rest`; the client is always free to begin."""
        up.reverse = down
        down.reverse = up

    def start(self) -> bool:
        """Relay from now on. False when that cannot be: the pair is closed, and has said so."""
        try:
            self._reactor.watch(self.up.source_fd, self.up)
            self._reactor.watch(self.down.source_fd, self.down)
        except OSError:
            self.reset(CloseReason.NO_RESOURCES)
            return False
        return True

    @property
    def bytes_to_backend(self) -> int:
        """Relayed so far, client to backend."""
        return self.up.bytes

    @property
    def bytes_to_client(self) -> int:
        """Relayed so far, backend to client."""
        return self.down.bytes

    @property
    def half_closed(self) -> bool:
        """Whether exactly one side has finished sending."""
        return self.first_eof is not None

    def keep_alive(self) -> None:
        """Have the kernel find out when a peer is gone."""
        if not self._kept_alive:
            self._kept_alive = True
            keep_alive(self.up.source)
            keep_alive(self.down.source)

    def ask_often(self, every_s: int) -> None:
        """Have both peers answer so often, once one of them has finished sending."""
        if self.half_closed and not self._asks_often:
            self._asks_often = True
            ask_often(self.up.source, every_s)
            ask_often(self.down.source, every_s)

    def give_back(self) -> None:
        """Return the pipes of an idle connection to the pool."""
        self.up.leave_splice()
        self.down.leave_splice()

    def reset(self, reason: CloseReason) -> None:
        """End at once with a reset to both sides."""
        if not self.closed:
            self._close(reason, ())

    @property
    def at_rest(self) -> bool:
        """Whether nothing waits to be passed on, and the backend was the last to speak."""
        return self.last is self.down and not (self.up.blocked or self.down.blocked)

    def end(self, reason: CloseReason) -> None:
        """End in good order, at a moment when nothing is under way."""
        if not self.closed:
            self._close(reason, (self.up, self.down))

    def reset_by(self, direction: "Direction") -> None:
        """The source of `direction` was reset: so is the other side.

        When the source had finished before, what it said and its end still reach the other, as without
        a proxy: a server that closes without reading all of the request does that.
        """
        if not self.closed:
            reason = CloseReason.CLIENT_RESET if direction is self.up else CloseReason.BACKEND_RESET
            self._close(reason, (direction.reverse,) if self.first_eof is direction else ())

    def source_failed(self, direction: "Direction", error: OSError) -> None:
        """The source of `direction` gives nothing more: it was reset, or this machine lacks something."""
        if ours_to_lack(error):
            self.reset(CloseReason.NO_RESOURCES)
        else:
            self.reset_by(direction)

    def end_of(self, direction: "Direction") -> None:
        """The source of `direction` has sent its last byte, and it was passed on."""
        if self.first_eof is None:
            self.first_eof = direction
            if direction.failed and direction.has_failed():
                self.reset_by(direction)  # it ended, and was reset: no edge will tell that again
            return
        reason = CloseReason.CLIENT_EOF if self.first_eof is self.up else CloseReason.BACKEND_EOF
        self._close(reason, (self.up, self.down))

    def _close(self, reason: CloseReason, in_order: "tuple[Direction, ...]") -> None:
        """Close both sockets: the sources of `in_order` see an orderly end, others a reset."""
        self.closed = True
        for direction in (self.up, self.down):
            close = socket.socket.close if direction in in_order else close_with_reset
            self._reactor.forget(direction.source_fd)
            direction.source_fd = direction.sink_fd = -1  # their numbers may be others' next
            direction.eof = True
            direction.blocked = False
            direction.leave_splice()
            close(direction.source)
        for direction in (self.up, self.down):
            del direction.pair, direction.reverse  # circles would wait for the garbage collector
        ended, self._ended = self._ended, _already_ended
        ended(reason)


def _already_ended(_reason: CloseReason) -> None:
    """Stands where the callback was, so that a closed pair does not hold its owner."""


class Direction:
    """One way through a connection: everything that `source` sends goes to `sink`.

    `on_events` runs for every message of every connection. It is written out flat, because
    here a function call costs a percent of the proxy's throughput; readv(2) and write(2) cost
    a quarter of a microsecond less than the socket's own methods.
    """

    __slots__ = (
        "_full_chunks",
        "_in_pipe",
        "_pipe",
        "_pipes",
        "_reactor",
        "_small_fills",
        "_unsent",
        "blocked",
        "bytes",
        "cut",
        "ending",
        "eof",
        "failed",
        "pair",
        "reverse",
        "sink",
        "sink_fd",
        "source",
        "source_fd",
        "urgent",
    )

    reverse: "Direction"

    def __init__(
        self, pair: Pair, reactor: Reactor, pipes: Pipes, source: socket.socket, sink: socket.socket
    ) -> None:
        self.pair = pair
        self.source = source
        self.sink = sink
        self.source_fd = source.fileno()
        self.sink_fd = sink.fileno()
        self.bytes = 0
        self.blocked = False
        """Whether bytes wait, in `_unsent` or in the pipe, for room in the sink."""
        self.eof = False
        """Whether nothing more will be read: the source has finished, or the pair is closed."""
        self.ending = not reactor.tells_ends
        """The source has ended or failed, or may have: a short read is no pause, read on until it says."""
        self.urgent = False
        """The same, of one that sends urgent bytes: a read stops short at them, and splice(2) for ever."""
        self.failed = False
        """The source has failed, maybe after its end."""
        self.cut = False
        """A write to the source was told of its reset: its end, when read, is none."""
        self._reactor = reactor
        self._pipes = pipes
        self._unsent: bytes = b""
        self._pipe: Pipe | None = None
        self._in_pipe = 0
        self._full_chunks = 0
        self._small_fills = 0

    def on_events(self, events: int) -> None:  # noqa: PLR0912 - see the class
        """Edges of the source's descriptor: move bytes until the source has none, the sink has no
        room, or it is others' turn. Writable edges concern the way back."""
        if events & _TROUBLE:
            self.ending = True
            if events & URGENT:
                self.urgent = True
            if events & FAILED:
                self.failed = True
            if events & FAILED and (self.eof or self.blocked) and self.has_failed():
                self.pair.reset_by(self)  # what waits has nobody left to vouch for it
                return
        if events & WRITABLE and self.reverse.blocked:
            self.reverse.pump()
        if self.blocked or events == WRITABLE:
            return
        steps = 0
        while not self.eof and steps < _STEPS_A_TURN:
            if self._pipe is not None:
                if self.urgent:
                    self.leave_splice()
                    continue
                if not self._splice_once(self._pipe):
                    return
                steps += 1
                continue
            try:
                count = _readv(self.source_fd, _SCRATCHES)
            except BlockingIOError:
                return
            except OSError as error:
                self.pair.source_failed(self, error)
                return
            if count == 0:
                self._finish()
                return
            self.bytes += count
            self.pair.last = self
            try:
                view = _PREFIXES[count] if count < _PREFIXES_COUNT else _VIEW[:count]
                sent = _write(self.sink_fd, view)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._sink_failed(error)
                return
            if sent != count:
                self._unsent = bytes(_VIEW[sent:count])
                self.blocked = True
                return
            if count < CHUNK_BYTES:
                if not self.ending:
                    self._full_chunks = 0
                    return  # a short read: the source is drained, and the next bytes make an edge
            else:
                self._chunk_was_full()
            steps += 1
        if not self.eof:
            self._reactor.later(self)

    def has_failed(self) -> bool:
        """Whether the source, of which an event said so, has failed. An error is told once: not to be asked
        where a read may come."""
        return self._reactor.tells_failures or has_failed(self.source)

    def begin_with(self, data: bytes) -> None:
        """Send something of ours, ahead of what the source says."""
        self._unsent = data
        self.blocked = True
        self.pump()

    def pump(self) -> None:
        """Go on after giving way, or when the sink has room again."""
        if not self.blocked or self._flush():
            self.on_events(READABLE)

    def _flush(self) -> bool:
        """Send what was kept; True when nothing is left."""
        if self._in_pipe and self._pipe is not None:
            drained = self._drain(self._pipe)
            self.blocked = not (drained or self.eof)
            return drained
        try:
            sent = os.write(self.sink_fd, self._unsent)
        except BlockingIOError:
            return False
        except OSError as error:
            self._sink_failed(error)
            return False
        self._unsent = self._unsent[sent:]
        self.blocked = bool(self._unsent)
        return not self.blocked

    def _finish(self) -> None:
        if self.cut:
            self.pair.reset_by(self)
            return
        self.eof = True
        if not self.reverse.eof:  # else closing the pair ends both ways at once
            try:
                self.sink.shutdown(socket.SHUT_WR)
            except OSError as error:
                self._sink_failed(error)
                return
        self.pair.end_of(self)

    def _sink_failed(self, error: OSError) -> None:
        """The sink takes no more: pass on what it said before it was reset, then the reset.

        The kernel tells a reset once. Was it this write that heard of it, a read finds an end
        instead, as if the peer had finished; EPIPE says that it really had, before it was reset.
        """
        pair, reverse = self.pair, self.reverse
        if ours_to_lack(error):
            pair.reset(CloseReason.NO_RESOURCES)
            return
        reverse.cut = error.errno not in _AFTER_ITS_END
        self.eof = True
        if not reverse.eof:
            reverse.pump()
        pair.reset_by(reverse)

    # ---- bulk ----

    def _chunk_was_full(self) -> None:
        self._full_chunks += 1
        if self._full_chunks == _FULL_CHUNKS_BEFORE_SPLICE and not self.urgent:
            bound_unsent(self.sink)
            self._pipe = self._pipes.take()

    def leave_splice(self) -> None:
        """Give the pipe back; one that still holds bytes is thrown away once the pair is closed."""
        pipe = self._pipe
        if pipe is None or (self._in_pipe and not self.eof):
            return
        self._pipe = None
        self._full_chunks = self._small_fills = 0
        if self._in_pipe:
            self._pipes.destroy(pipe)
        else:
            self._pipes.give(pipe)

    def _splice_once(self, pipe: Pipe) -> bool:
        """Fill the pipe and empty it; False when the source has no bytes or the sink no room."""
        if not self._fill(pipe):
            return False
        if not self._drain(pipe):
            self.blocked = not self.eof
            return False
        if self._small_fills == _SMALL_FILLS_BEFORE_COPY:
            self.leave_splice()
        return True

    def _fill(self, pipe: Pipe) -> bool:
        try:
            count = os.splice(self.source_fd, pipe.write_fd, PIPE_BYTES, flags=_SPLICE_FLAGS)
        except BlockingIOError:
            return False
        except OSError as error:
            self.pair.source_failed(self, error)
            return False
        if count == 0:
            self.ending = self.urgent = True  # the end, or an urgent byte ahead of one: reading tells
            return True
        self.bytes += count
        self.pair.last = self
        self._in_pipe = count
        self._small_fills = self._small_fills + 1 if count < _SMALL_BYTES else 0
        return True

    def _drain(self, pipe: Pipe) -> bool:
        """Empty the pipe into the sink; False when bytes stayed."""
        try:
            while self._in_pipe:
                self._in_pipe -= os.splice(pipe.read_fd, self.sink_fd, self._in_pipe, flags=_SPLICE_FLAGS)
        except BlockingIOError:
            return False
        except OSError as error:
            self._sink_failed(error)
            return False
        return True
