"""What is programmed now, as rows: the JSON of `/services` and `uproxy services -o json`.

Owns the names and shapes that other people's scripts read. Imports nothing of the proxy, so
that the command that only prints rows starts fast.
"""

import msgspec


class Counts(msgspec.Struct, frozen=True):
    """Connections, or UDP flows, of a Service port or an endpoint."""

    active: int = 0
    """Open now."""
    total: int = 0
    """Since the start of the proxy, those open now included."""


class Bytes(msgspec.Struct, frozen=True):
    """Payload bytes since the start of the proxy, of open connections too."""

    to_backend: int = 0
    to_client: int = 0


class EndpointRow(msgspec.Struct, frozen=True):
    """One endpoint of a Service port."""

    address: str
    """`10.0.0.1:8080` or `[fd00::1]:8080`."""
    state: str
    """`ready`, `terminating`, `not-ready`, or `ejected`: sits out after failed dials."""
    connections: Counts
    """Or UDP flows."""


class ServiceRow(msgspec.Struct, frozen=True):
    """One Service port; or a Service that exists only as a mistake, then without a port."""

    namespace: str
    name: str
    status: str
    """`ok`, `no-endpoints`, `pending`, or `partial: WHY`, `error: WHY`, `faulty: WHY`."""
    port: int | None = None
    """The Service port's number."""
    port_name: str = ""
    protocol: str | None = None
    addresses: list[str] = []
    """`IP:PORT` where clients connect; a NodePort has the unspecified address."""
    path: str = "relay"
    """What carries new connections: `relay`, or what hands them to the kernel: `nftables`, `ipvs`."""
    path_reason: str = ""
    """Why it moved there last, or what keeps it in userspace; empty without `--handoff`."""
    path_since_s: float | None = None
    """Unix time of its last move."""
    in_kernel: int = 0
    """How many of the active connections, or flows, the kernel carries."""
    connections: Counts = Counts()
    flows: Counts = Counts()
    """UDP only."""
    bytes: Bytes = Bytes()
    endpoints: list[EndpointRow] = []
    waiting: dict[str, int] = {}
    """How many clients wait: for a `place` at an endpoint, or for an `endpoint`. Empty when nobody does."""
    options: dict[str, str] = {}
    """What its annotations `uproxy.dev/...` ask for, where that is not the default."""
