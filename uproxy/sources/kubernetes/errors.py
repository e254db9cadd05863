"""What can go wrong between here and an API server.

Two kinds: what a person has to mend before the proxy can start (`AccessError`, one line), and the life of
a connection (`Trouble`), which never leaves this package: it is counted, waited out, and tried again.
"""

from uproxy.errors import UproxyError


class AccessError(UproxyError):
    """The way to the API server is not known: kubeconfig, service account, or what they lead to."""


class NotPosted(UproxyError):
    """An Event could not be created."""


class Trouble(Exception):
    """A request came to nothing; the text is fit for a log."""


class Unreachable(Trouble):
    """No connection."""


class Dropped(Trouble):
    """A connection ended before the answer did."""


class Silent(Trouble):
    """A connection on which nothing came for longer than an API server is ever silent."""


class Refused(Trouble):
    """The API server's own answer, when it is not what was asked for."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        retry_after_s: float | None = None,
        *,
        in_watch: bool = False,
    ) -> None:
        """`in_watch`: an ERROR event, and not the status of an answer."""
        super().__init__(f"{code} {reason}: {message}" if reason else f"{code}: {message}")
        self.code = code
        self.in_watch = in_watch
        self.retry_after_s = retry_after_s

    @property
    def denied(self) -> bool:
        """Who we are, or what we may: nothing that passes by itself."""
        return self.code in (401, 403)
