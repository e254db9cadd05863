"""What the reconcile loop asks of everything that programs something."""

from collections.abc import Mapping
from typing import Protocol

from uproxy.model.frontend import Changes
from uproxy.model.names import Vip


class Target(Protocol):
    """Something that can be brought in line with the desired state.

    The loop calls `make` on every target in order, then `retire` in the reverse order, so
    that what traffic is about to need exists before anything leads to it, and what
    traffic still uses goes last. Both are idempotent.
    """

    async def make(self, changes: Changes) -> Mapping[Vip, str]:
        """Program what `changes` asks for.

        Returns the addresses that could not be programmed, each with the reason; the
        loop shows them and asks again later. All others must be unharmed.
        """
        ...

    async def retire(self, changes: Changes) -> None:
        """Take down what `changes` leaves without use."""
        ...

    async def prune(self) -> None:
        """Remove what an earlier run left behind and nobody wants now.

        Called once, after the first complete programming.
        """
        ...

    async def close(self) -> None:
        """Remove everything that this target ever programmed."""
        ...
