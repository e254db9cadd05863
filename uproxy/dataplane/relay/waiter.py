"""One client in a waiting room: timed, and watched in case it gives up.

Owns that it leaves in exactly one way: dialled for, ended, or taken out by its relay. Its bytes stay in
the kernel meanwhile, as those of any client that is not read.
"""

from collections.abc import Callable

from uproxy.dataplane.context import Context
from uproxy.dataplane.reactor import FAILED, HUNG_UP
from uproxy.model.closing import CloseReason
from uproxy.picking.attempts import Attempts
from uproxy.picking.backends import BackendState
from uproxy.picking.waiting import Wait

_TIMEOUTS = {Wait.PLACE: CloseReason.QUEUE_TIMEOUT, Wait.ENDPOINT: CloseReason.HOLD_TIMEOUT}


def wait_or_end(context: Context, attempts: Attempts, now_s: float) -> Wait | CloseReason:
    """What becomes of a client for which there is no next endpoint."""
    found = attempts.wait_or_end(now_s)
    if isinstance(found, Wait) and not context.descriptors.room_to_wait:
        return CloseReason.QUEUE_FULL
    return found


class Waiter:
    """A client that waits. `dial` is called with the endpoint that it may have, or `end` with why not."""

    __slots__ = ("_attempts", "_context", "_dial", "_end", "_fd", "_left_s", "_timer", "wait")

    def __init__(
        self,
        context: Context,
        fd: int,
        attempts: Attempts,
        wait: Wait,
        *,
        dial: Callable[[BackendState], None],
        end: Callable[[CloseReason], None],
    ) -> None:
        """`fd` is the client's socket, which nobody else watches. Raises OSError when that cannot be."""
        context.reactor.watch(fd, self)
        self.wait = wait
        self._context = context
        self._fd = fd
        self._attempts = attempts
        self._dial = dial
        self._end = end
        self._left_s = attempts.pause(context.now())
        held_s = attempts.route.options.hold_s
        bound_s = held_s if wait is Wait.ENDPOINT and held_s is not None else context.timeouts.dial_budget_s
        self._timer = context.loop.call_later(bound_s, self.give_up, _TIMEOUTS[wait])
        attempts.route.room.enter(attempts.route, self)

    def on_events(self, events: int) -> None:
        """The client said something, which is for its endpoint; or it was reset."""
        if events & (FAILED | HUNG_UP):
            self.give_up(CloseReason.CLIENT_RESET)

    def try_again(self, now_s: float) -> bool:
        """Its turn: dial, or end when there is nothing to wait for any more; False to wait on."""
        attempts = self._attempts
        state = attempts.next(now_s)
        if state is None and attempts.worth_waiting_for() is not None:
            return False
        self.leave()
        attempts.resume(now_s, self._left_s)
        if state is not None:
            self._dial(state)
        else:
            self._end(attempts.verdict(now_s))
        return True

    def leave(self) -> None:
        """Leave the room, and the client to the caller."""
        self._timer.cancel()
        self._context.reactor.release(self._fd)
        self._attempts.route.room.leave(self._attempts.route, self)

    def give_up(self, reason: CloseReason) -> None:
        """Leave the room, and end."""
        self.leave()
        self._end(reason)
