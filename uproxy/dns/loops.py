"""Whether the upstream servers lead back to this one, over however many others.

Pure. A question that nobody else can ask is sent with the first one that goes upstream; when it
comes in again, the circle is closed, and names elsewhere are refused from then on.
"""

from uproxy.dns.wire import join

_SIGN = b"uproxy-loop-probe"


class LoopGuard:
    """One probe's name, and whether it has come back."""

    def __init__(self, nonce: bytes) -> None:
        self.name = join(nonce.lower(), _SIGN)
        self.found = False

    def sees(self, name: bytes) -> bool:
        """Look at a question from a client; whether it closes the circle."""
        if name == self.name:
            self.found = True
            return True
        return False
