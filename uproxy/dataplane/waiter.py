"""One client in a waiting room: timed, and watched in case it gives up.

Owns that it leaves in exactly one way: dialled for, ended, or taken out by its relay. Its bytes stay in
the kernel meanwhile, as those of any client that is not read.
"""

from collections.abc import Callable

from uproxy.dataplane.backends import BackendState
from uproxy.dataplane.context import Context
from uproxy.dataplane.dialling import Dialling
from uproxy.dataplane.reactor import FAILED, HUNG_UP
from uproxy.dataplane.waiting import Wait
from uproxy.model.closing import CloseReason

_TIMEOUTS = {Wait.PLACE: CloseReason.QUEUE_TIMEOUT, Wait.ENDPOINT: CloseReason.HOLD_TIMEOUT}


def wait_or_end(context: Context, dialling: Dialling, now_s: float) -> Wait | CloseReason:
    """What becomes of a client for which there is no next endpoint."""
    found = dialling.wait_or_end(now_s)
    if isinstance(found, Wait) and not context.descriptors.room_to_wait:
        return CloseReason.QUEUE_FULL
    return found


class Waiter:
    """A client that waits. `dial` is called with the endpoint that it may have, or `end` with why not."""

    __slots__ = ("_context", "_dial", "_dialling", "_end", "_fd", "_left_s", "_timer", "wait")

    def __init__(
        self,
        context: Context,
        fd: int,
        dialling: Dialling,
        wait: Wait,
        *,
        dial: Callable[[BackendState], None],
        end: Callable[[CloseReason], None],
    ) -> None:
        """`fd` is the client's socket, which nobody else watches."""
        self.wait = wait
        self._context = context
        self._fd = fd
        self._dialling = dialling
        self._dial = dial
        self._end = end
        self._left_s = dialling.pause(context.now())
        held_s = dialling.route.options.hold_s
        bound_s = held_s if wait is Wait.ENDPOINT and held_s is not None else context.timeouts.dial_budget_s
        self._timer = context.loop.call_later(bound_s, self.give_up, _TIMEOUTS[wait])
        dialling.route.room.enter(dialling.route, self)
        context.reactor.watch(fd, self)

    def on_events(self, events: int) -> None:
        """The client said something, which is for its endpoint; or it was reset."""
        if events & (FAILED | HUNG_UP):
            self.give_up(CloseReason.CLIENT_RESET)

    def try_again(self, now_s: float) -> bool:
        """Its turn: dial, or end when there is nothing to wait for any more; False to wait on."""
        dialling = self._dialling
        state = dialling.next(now_s)
        if state is None and dialling.worth_waiting_for() is not None:
            return False
        self.leave()
        dialling.resume(now_s, self._left_s)
        if state is not None:
            self._dial(state)
        else:
            self._end(dialling.verdict(now_s))
        return True

    def leave(self) -> None:
        """Leave the room, and the client to the caller."""
        self._timer.cancel()
        self._context.reactor.release(self._fd)
        self._dialling.route.room.leave(self._dialling.route, self)

    def give_up(self, reason: CloseReason) -> None:
        """Leave the room, and end."""
        self.leave()
        self._end(reason)
