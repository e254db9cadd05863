"""What the server does wrong on purpose: known delays and errors, to test the tool against itself.

    --delay constant:5ms       every reply, 5 ms late
    --delay percent:1:100ms    1 % of replies, 100 ms late
    --delay stall:5s:500ms     of every 5 s the last 500 ms, nothing is done at all
    --errors 0.01              1 % of requests, answered with a reset; of datagrams, lost

A late reply holds up only its own connection; a stall holds up all. Shares are counted out, not
drawn: every hundredth request, so that what must be measured is known. Owns the flags' grammar
and the counting of the Python server; native/faults.h is its twin.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from uproxy.errors import UproxyError
from uproxy.kit.durations import parse_duration_s

_FORMS = "constant:DURATION, percent:SHARE:DURATION or stall:PERIOD:DURATION"


@dataclass(frozen=True, slots=True)
class Faults:
    """What to inject; nothing by default."""

    constant_s: float = 0.0
    slow_share: float = 0.0
    slow_s: float = 0.0
    stall_period_s: float = 0.0
    stall_s: float = 0.0
    error_share: float = 0.0


def parse_faults(delays: Iterable[str], errors: float) -> Faults:
    """Read the flags' values; different kinds of delay add up.

    Raises UproxyError.
    """
    if not 0 <= errors <= 1:
        raise UproxyError(f"--errors {errors}: a share is between 0 and 1")
    faults = Faults(error_share=errors)
    for delay in delays:
        try:
            faults = _with_delay(faults, delay.split(":"))
        except ValueError as error:
            raise UproxyError(f"--delay {delay}: {error}") from error
    return faults


def _with_delay(faults: Faults, parts: list[str]) -> Faults:
    match parts:
        case ["constant", wait]:
            return replace(faults, constant_s=parse_duration_s(wait))
        case ["percent", percent, wait]:
            return replace(faults, slow_share=_share(percent), slow_s=parse_duration_s(wait))
        case ["stall", period, length]:
            period_s, stall_s = parse_duration_s(period), parse_duration_s(length)
            if not 0 < stall_s < period_s:
                raise ValueError("a stall is shorter than its period")
            return replace(faults, stall_period_s=period_s, stall_s=stall_s)
        case _:
            raise ValueError(f"a delay is {_FORMS}")


def _share(percent: str) -> float:
    share = float(percent) / 100
    if not 0 <= share <= 1:
        raise ValueError(f"{percent} is not a percentage")
    return share


class Injection:
    """Counts out the faults of a running Python server."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._since_s = time.monotonic()
        self._slow_owed = 0.0
        self._errors_owed = 0.0

    def is_error(self) -> bool:
        """Whether the next request is answered with a reset."""
        self._errors_owed += self._faults.error_share
        due = self._errors_owed >= 1
        self._errors_owed -= due
        return due

    def delay_ns(self) -> int:
        """How long the next reply is held back."""
        self._slow_owed += self._faults.slow_share
        slow = self._slow_owed >= 1
        self._slow_owed -= slow
        return int((self._faults.constant_s + slow * self._faults.slow_s) * 1e9)

    def stall(self) -> None:
        """Sleep through the rest of a stall, if this is one."""
        period_s = self._faults.stall_period_s
        if not period_s:
            return
        into_s = (time.monotonic() - self._since_s) % period_s
        if into_s >= period_s - self._faults.stall_s:
            time.sleep(period_s - into_s)
