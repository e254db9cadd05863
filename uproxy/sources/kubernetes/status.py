"""How each resource stands with the API server: for health, metrics and the log."""

from collections.abc import Callable
from dataclasses import dataclass

from uproxy.sources.kubernetes.complaints import Complaints
from uproxy.sources.kubernetes.errors import Dropped, Refused, Trouble


@dataclass(frozen=True, slots=True)
class ResourceStatus:
    """One resource at one moment. Times are on the clock that the source was given."""

    resource: str
    synced: bool
    """Whether a first complete list has come."""
    disconnected_since_s: float | None
    """None while connected."""
    last_error: str
    """Also after it has passed; empty when there never was one."""
    lists: int
    """Complete ones. The first is one, each more a relist."""
    events: int
    """Objects that came or went, in lists and watches."""
    failures: int
    """Requests and watches that came to nothing or ended too soon."""
    denied: int
    """Those of them that were answered with 401 or 403."""
    skipped: int
    """Objects that are left out now, because they cannot be understood."""
    objects: int
    """Objects that are known now."""


class Health:
    """Counts for one resource, and keeps the log told."""

    def __init__(self, resource: str, now: Callable[[], float], complaints: Complaints) -> None:
        self._resource = resource
        self._now = now
        self._complaints = complaints
        self._connected_at_s: float | None = None
        self._disconnected_since_s: float | None = now()
        self._last_error = ""
        self._lists = self._failures = self._denied = 0

    @property
    def connected_for_s(self) -> float:
        """Since the last answer, while nothing has gone wrong."""
        return 0.0 if self._connected_at_s is None else self._now() - self._connected_at_s

    def connected(self) -> None:
        """The server answers as it should."""
        self._connected_at_s = self._now()
        self._disconnected_since_s = None
        self._complaints.well(self._resource)

    def listed(self) -> bool:
        """A list is complete; returns whether it is the first."""
        self._lists += 1
        return self._lists == 1

    def failed(self, trouble: Trouble) -> None:
        """Something came to nothing. What passes by itself at once is not worth a line in the log."""
        self._failures += 1
        self._last_error = str(trouble)
        self._connected_at_s = None
        if self._disconnected_since_s is None:
            self._disconnected_since_s = self._now()
        if isinstance(trouble, Refused):
            self._denied += trouble.denied
        if not isinstance(trouble, Dropped) and not (isinstance(trouble, Refused) and trouble.code == 410):
            self._complaints.trouble(self._resource, str(trouble), known=self._lists > 0)

    def status(self, events: int, skipped: int, objects: int) -> ResourceStatus:
        """How it stands now."""
        return ResourceStatus(
            resource=self._resource,
            synced=self._lists > 0,
            disconnected_since_s=self._disconnected_since_s,
            last_error=self._last_error,
            lists=self._lists,
            events=events,
            failures=self._failures,
            denied=self._denied,
            skipped=skipped,
            objects=objects,
        )
