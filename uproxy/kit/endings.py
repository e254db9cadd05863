"""Being told to end: every signal that ends a process by default, from the process's first moment on.

Owns the handlers. `__main__` imports this before anything else, so it imports next to nothing. Until
somebody here says what is to be done (`telling`), nothing has been programmed, and the process ends at once.

As process 1 of a container a signal without a handler would be lost (pid_namespaces(7)); elsewhere it
would end the process on the spot, and leave its rules. Signals that come while a parent has blocked them
are kept by the kernel, for process 1 too: they count as soon as the handlers are there.

Faults (SIGSEGV and the like) stay as they are, and so does what is ignored already: by `nohup`, and by
Python, which makes errors of SIGPIPE and SIGXFSZ. SIGINT and SIGQUIT are caught even then: a shell ignores
them for each program that a script starts with `&`, without having been asked.
"""

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_FAULTS = (
    signal.SIGILL,
    signal.SIGTRAP,
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGSEGV,
    signal.SIGSYS,
)
_END_NOBODY = (
    signal.SIGCHLD,
    signal.SIGCONT,
    signal.SIGURG,
    signal.SIGWINCH,
    signal.SIGSTOP,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
)
_ALWAYS = (signal.SIGINT, signal.SIGQUIT)
_SERVICES = ("run", "dns", "demo")
"""Commands that go on until they are told to stop, which is a success then."""
_ONE_SHOT = ("--cleanup", "--init-only")

ENDING = frozenset(signal.valid_signals()) - {*_FAULTS, *_END_NOBODY, signal.SIGKILL}
"""signal(7): those whose action is to end the process, and are no fault of its own."""

_listeners: "list[Callable[[], object]]" = []
_was_told = False


def catch() -> None:
    """Install the handlers, and let signals come that were held back until now."""
    caught = [
        number for number in ENDING if number in _ALWAYS or signal.getsignal(number) is not signal.SIG_IGN
    ]
    for number in caught:
        signal.signal(number, _on_signal)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, caught)


def was_told() -> bool:
    """Whether a signal has come."""
    return _was_told


class telling:
    """While this holds, `stop` is called for each signal, in the main thread, between any two instructions.

    Of several the innermost hears it. One that begins after a signal hears it at once.
    """

    def __init__(self, stop: "Callable[[], object]") -> None:
        self._stop = stop

    def __enter__(self) -> None:
        _listeners.append(self._stop)
        if _was_told:
            self._stop()

    def __exit__(self, *_: object) -> None:
        _listeners.remove(self._stop)


def finishing() -> telling:
    """What is under way is finished; a second signal ends the process where it is."""
    left = [1]

    def stop() -> None:
        if not left:
            os._exit(1)
        left.clear()

    return telling(stop)


def interrupting() -> telling:
    """Each signal is as Ctrl-C for other programs in Python: KeyboardInterrupt."""

    def stop() -> None:
        raise KeyboardInterrupt

    return telling(stop)


def children() -> list[int]:
    """The processes whose parent is this one (proc(5), `children`); none where the kernel does not say."""
    found: list[int] = []
    for thread in os.listdir("/proc/self/task"):  # noqa: PTH208  pathlib is not worth its import here
        try:
            with open(f"/proc/self/task/{thread}/children") as listed:  # noqa: PTH123
                found += map(int, listed.read().split())
        except OSError:
            continue
    return found


def end_children() -> None:
    """Kill what was run from here and has not ended, with all that it has started: an exec plugin that
    hangs, say, would hold up our end."""
    for pid in children():
        try:
            os.killpg(pid, signal.SIGKILL)
        except OSError:
            continue


def _on_signal(number: int, _frame: "FrameType | None") -> None:
    global _was_told  # noqa: PLW0603  a signal's handler has nowhere else to write to
    _was_told = True
    if _listeners:
        _listeners[-1]()
    else:
        _end_at_once(number)


def _end_at_once(number: int) -> None:
    """Nothing was programmed yet, and what tries the machine out has to go along."""
    end_children()
    if _is_service(sys.argv):
        os._exit(0)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # process 1 does not end by a default action


def _is_service(argv: list[str]) -> bool:
    return argv[1:2] != [] and argv[1] in _SERVICES and not any(w.startswith(_ONE_SHOT) for w in argv)
