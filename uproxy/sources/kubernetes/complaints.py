"""What is wrong with the API server, in the log: once, however many resources see it, until it changes."""

import logging

log = logging.getLogger("uproxy.kubernetes")


class Complaints:
    """The trouble that each resource has now."""

    def __init__(self) -> None:
        self._by_resource: dict[str, str] = {}

    def trouble(self, resource: str, text: str, known: bool) -> None:
        """`resource` could not be had, because of `text`; `known` says whether it ever was."""
        if text not in self._by_resource.values():
            meanwhile = (
                "going on with what is known" if known else "trying again, nothing is served until then"
            )
            log.warning("API server: %s; %s", text, meanwhile)
        self._by_resource[resource] = text

    def well(self, resource: str) -> None:
        """`resource` can be had again."""
        if self._by_resource.pop(resource, None) is not None and not self._by_resource:
            log.info("API server: answers again")
