"""A backend as the data plane knows it: address, standing, counts.

Owns passive ejection: a backend that refused or timed out sits out, for longer each time
it fails again. Pure: the time is passed in.
"""

from uproxy.model.frontend import Backend
from uproxy.model.names import ADDRESS_FAMILY

SIT_OUT_FIRST_S = 1.0
SIT_OUT_MAX_S = 30.0


class BackendState:
    """One backend of one Service port. Lives as long as the backend is listed or in use."""

    __slots__ = (
        "_sit_out_s",
        "active",
        "address",
        "backend",
        "connections",
        "dial_failures",
        "family",
        "joined_at_failure",
        "relay_slot",
        "sits_out_until_s",
        "taken",
        "usable",
    )

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.address = (str(backend.ip), backend.port)
        """What connect(2) is given."""
        self.family = ADDRESS_FAMILY[backend.ip.version]
        self.usable = True
        """False once the endpoint is gone or no longer takes new connections."""
        self.active = 0
        """Open connections, or UDP flows."""
        self.taken = 0
        """The same, with dials under way; the Python relay's."""
        self.connections = 0
        self.dial_failures = 0
        self.sits_out_until_s = 0.0
        self._sit_out_s = 0.0
        self.relay_slot = -1
        """The relay's own number for it, when it has one."""
        self.joined_at_failure = 0
        """How many dials had succeeded when one failed last; the native relay's."""

    def failed(self, now_s: float) -> None:
        """A dial failed: sit out, twice as long as the last time."""
        self.dial_failures += 1
        if now_s < self.sits_out_until_s:
            return  # a dial begun before the ejection; one outage counts once
        self._sit_out_s = min(self._sit_out_s * 2 or SIT_OUT_FIRST_S, SIT_OUT_MAX_S)
        self.sits_out_until_s = now_s + self._sit_out_s

    def answered(self) -> None:
        """A dial succeeded: all is forgiven."""
        if self.sits_out_until_s:
            self.sits_out_until_s = self._sit_out_s = 0.0
