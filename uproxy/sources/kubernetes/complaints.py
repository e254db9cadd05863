"""What is wrong with the API server, in the log: a line when it begins, one when it ends, one an hour.

However many resources see it, and however often it changes its words: each of them is said once.
"""

import logging
from collections.abc import Callable

AGAIN_S = 3600.0

log = logging.getLogger("uproxy.kubernetes")


class Complaints:
    """The trouble that each resource has now."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._by_resource: dict[str, str] = {}
        self._said: dict[str, float] = {}
        """When, since it began."""

    def trouble(self, resource: str, text: str, known: bool) -> None:
        """`resource` could not be had, because of `text`; `known` says whether it ever was."""
        self._by_resource[resource] = text
        said_s = self._said.get(text)
        if said_s is not None and self._now() - said_s < AGAIN_S:
            return
        self._said[text] = self._now()
        meanwhile = "going on with what is known" if known else "trying again, nothing is served until then"
        log.warning("API server: %s%s; %s", "" if said_s is None else "still: ", text, meanwhile)

    def well(self, resource: str) -> None:
        """`resource` can be had again."""
        if self._by_resource.pop(resource, None) is not None and not self._by_resource:
            self._said.clear()
            log.info("API server: answers again")
