"""As much HTTP/1.1 as it takes to be measured beside wrk: a GET, and a reply with a Content-Length.

Owns requests as bytes, and where a reply ends. Refuses chunked replies and sockets.
"""

import re

from uproxy.bench.load.wire import Mismatch

REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
LAST_REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"

_LENGTH = re.compile(rb"\r\nContent-Length: *(\d+)\r\n", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nConnection: close\r\n", re.IGNORECASE)
_LONGEST_HEAD = 2048


class BadStatus(Exception):
    """A reply whose status is not 200."""


def closes(head: bytes) -> bool:
    """Whether a request or reply ends its connection."""
    return b"HTTP/1.0" in head.partition(b"\r\n")[0] or _CLOSE.search(head) is not None


class Reply:
    """A reply on its way in."""

    __slots__ = ("_body_left", "_head", "is_last")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin the next one."""
        self._head = b""
        self._body_left: int | None = None
        self.is_last = False

    def feed(self, data: bytes) -> bool:
        """Take bytes; True when the reply is whole.

        Raises Mismatch, BadStatus.
        """
        if self._body_left is None:
            self._head += data
            head, found, data = self._head.partition(b"\r\n\r\n")
            if not found:
                return self._wait_for_head()
            self._begin_body(head + b"\r\n")
        if self._body_left is None or len(data) > self._body_left:
            raise Mismatch
        self._body_left -= len(data)
        return self._body_left == 0

    def _wait_for_head(self) -> bool:
        if len(self._head) > _LONGEST_HEAD:
            raise Mismatch
        return False

    def _begin_body(self, head: bytes) -> None:
        if not head.startswith(b"HTTP/1.") or head[8:12] != b" 200":
            raise BadStatus
        length = _LENGTH.search(head)
        self._body_left = int(length[1]) if length else None
        self.is_last = closes(head)
