"""The table of UDP flows. Pure: the time is passed in, and closing is the caller's.

Owns which flow a datagram belongs to, when a flow is over, and that there are never more
than `limit`: the idlest makes room for a new one.
"""

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

EXCHANGE_IDLE_S = 30.0
"""Idle time of a flow that saw one question, or one question and its answers: DNS. The
kernel's conntrack makes the same difference (nf_conntrack_udp_timeout)."""


class Flow(Protocol):
    """What the table asks of a flow."""

    used_s: float
    """When a datagram last passed, in either direction."""
    streaming: bool
    """Whether the client went on after an answer: QUIC, games, media."""


F = TypeVar("F", bound=Flow)
K = TypeVar("K")


class FlowTable(Generic[K, F]):
    """Flows by client and address, in order of the clients' last datagrams."""

    def __init__(self, limit: int, idle_s: float) -> None:
        self._flows: dict[K, F] = {}
        self._limit = limit
        self._idle_s = idle_s

    def __len__(self) -> int:
        return len(self._flows)

    def __iter__(self) -> Iterator[F]:
        return iter(list(self._flows.values()))

    def use(self, key: K, now_s: float) -> F | None:
        """The flow of a datagram from the client, which is now the least idle one."""
        flow = self._flows.pop(key, None)
        if flow is not None:
            flow.used_s = now_s
            self._flows[key] = flow
        return flow

    def add(self, key: K, flow: F) -> F | None:
        """Add a flow; returns the idlest one, removed, when there was no room."""
        evicted = None
        if len(self._flows) >= self._limit:
            evicted = self._flows.pop(next(iter(self._flows)))
        self._flows[key] = flow
        return evicted

    def remove(self, key: K) -> F | None:
        """Remove a flow, if it is there."""
        return self._flows.pop(key, None)

    def expired(self, now_s: float) -> list[F]:
        """Remove and return the flows that have been idle for too long."""
        over = [key for key, flow in self._flows.items() if now_s - flow.used_s > self._idle_of(flow)]
        return [self._flows.pop(key) for key in over]

    def _idle_of(self, flow: F) -> float:
        return self._idle_s if flow.streaming else min(EXCHANGE_IDLE_S, self._idle_s)
