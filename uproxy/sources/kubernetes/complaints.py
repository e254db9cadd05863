"""What is wrong with the API server, in the log: once, however many resources see it, until it changes."""

import logging

log = logging.getLogger("uproxy.kubernetes")


class Complaints:
    """The trouble that each resource has now."""

    def __init__(self) -> None:
        self._by_resource: dict[str, str] = {}

    def trouble(self, resource: str, text: str) -> None:
        """`resource` could not be had, because of `text`."""
        if text not in self._by_resource.values():
            log.warning("API server: %s; going on with what is known", text)
        self._by_resource[resource] = text

    def well(self, resource: str) -> None:
        """`resource` can be had again."""
        if self._by_resource.pop(resource, None) is not None and not self._by_resource:
            log.info("API server: answers again")
