"""What the handoff asks of whoever counts traffic: it counts on there, and clients stay where they are."""

from collections.abc import Collection, Iterator
from typing import Protocol

from uproxy.model.affinity import Pinned
from uproxy.model.frontend import Backend
from uproxy.model.names import ServicePortName


class Ledger(Protocol):
    """Where traffic is counted, and clients are remembered, whoever carries it."""

    def totals(self) -> Iterator[tuple[ServicePortName, int, int]]:
        """Connections and bytes so far, of each Service port that had any."""
        ...

    def add(
        self, name: ServicePortName, backend: Backend, connections: int, to_backend: int, to_client: int
    ) -> None:
        """What the kernel carried more than was told before."""
        ...

    def in_kernel(self, name: ServicePortName, count: int) -> None:
        """How many connections the kernel has now."""
        ...

    def pinned(self, name: ServicePortName) -> Collection[Pinned]:
        """The clients that the relay keeps at their endpoints."""
        ...

    def pin(self, name: ServicePortName, clients: Collection[Pinned]) -> None:
        """Have the relay keep these."""
        ...
