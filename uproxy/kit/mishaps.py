"""Faults of ours that a stranger can bring about: the first of each kind is told with its traceback.

Owns only what is told. Each is counted by whoever met it; a thousand a second must not fill a log.
"""

import logging

_MOST_KINDS = 100

log = logging.getLogger("uproxy")


class Mishaps:
    """What was told of already, by the place where it was raised."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def tell(self, where: str, error: BaseException) -> None:
        """Log an exception that nobody expected, if it is new."""
        kind = _kind(error)
        if kind not in self._told and len(self._told) < _MOST_KINDS:
            self._told.add(kind)
            log.error("%s met a fault of uproxy's (told once): please report it", where, exc_info=error)


def _kind(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else ""
    return f"{type(error).__name__} {place}"
