"""Where the proxy's HTTP servers are, and why one cannot be had: for both ends of the line."""

import os
from typing import NamedTuple

from uproxy.model.names import address_text


class Address(NamedTuple):
    """A host's IP address and a port; to listen on port 0 lets the kernel choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return address_text(self.host, self.port)


def words_of(error: OSError) -> str:
    """The reason alone: without its number, and without what asyncio adds to it."""
    number = error.errno or 0
    # A resolver's errors (socket.gaierror) have negative numbers, timeouts have none.
    return os.strerror(number).lower() if number > 0 else (error.strerror or str(error)).lower()
