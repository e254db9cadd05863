"""Events in the cluster, of the Node and of Services, as kube-proxy posts them.

Owns their words, their shape (events.k8s.io/v1) and that posting them never gets in the way:
they wait in a bounded queue, and what cannot be posted is counted and forgotten. Refuses to
know an API server: whoever has one gives `post`.
Source: kube-proxy 1.36, cmd/kube-proxy/app/server.go, pkg/proxy/healthcheck/service_health.go,
client-go's tools/events.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from uproxy.errors import UproxyError
from uproxy.model.names import NamespacedName

CONTROLLER = "uproxy"
QUEUE_MAX = 100
FLUSH_S = 2.0
_NOTE_MAX = 1024
"""What an API server takes."""

Post = Callable[[str, dict[str, Any]], Awaitable[None]]
"""Creates an Event in a namespace. Raises UproxyError when that fails."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that people should find when they look at an object."""

    kind: str
    key: NamespacedName
    """A Node has no namespace."""
    reason: str
    action: str
    note: str
    is_warning: bool = True


def started(node: str) -> Notice:
    """The proxy runs."""
    return _of_node(node, "Starting", "", is_warning=False)


def health_failed(node: str, why: str) -> Notice:
    """The health address cannot be served."""
    return _of_node(node, "FailedToStartProxierHealthcheck", why)


def metrics_failed(node: str, why: str) -> Notice:
    """The metrics address cannot be served."""
    return _of_node(node, "FailedToStartMetricServer", why)


def service_health_failed(node: str, service: NamespacedName, port: int, why: str) -> Notice:
    """A Service's health check port cannot be opened."""
    note = f'node {node} failed to start healthcheck "{service}" on port {port}: {why}'
    return Notice("Service", service, "FailedToStartServiceHealthcheck", "Listen", note)


def _of_node(node: str, reason: str, note: str, *, is_warning: bool = True) -> Notice:
    return Notice("Node", NamespacedName("", node), reason, "StartKubeProxy", note, is_warning)


def event_object(notice: Notice, node: str, at: datetime) -> tuple[str, dict[str, Any]]:
    """The namespace and the object to create. `at`, in UTC, makes its name a new one.

    As kube-proxy, which has no need to ask for it, gives the object's name for its uid; that is
    also what `kubectl describe` looks a Node's events up by.
    """
    key = notice.key
    namespace = key.namespace or "default"
    nanoseconds = int(at.timestamp()) * 1_000_000_000 + at.microsecond * 1000
    return namespace, {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{key.name}.{nanoseconds:x}", "namespace": namespace},
        "eventTime": f"{at:%Y-%m-%dT%H:%M:%S.%f}Z",
        "reportingController": CONTROLLER,
        "reportingInstance": f"{CONTROLLER}-{node}"[:128],
        "action": notice.action,
        "reason": notice.reason,
        "regarding": _reference(notice),
        "note": notice.note[:_NOTE_MAX],
        "type": "Warning" if notice.is_warning else "Normal",
    }


def _reference(notice: Notice) -> dict[str, str]:
    key = notice.key
    of_service = {"apiVersion": "v1", "namespace": key.namespace} if key.namespace else {}
    return {"kind": notice.kind, "name": key.name, "uid": str(key), **of_service}


class Events:
    """Posts notices in the background, one after another.

    `now` gives the present moment in UTC; `outcomes` is told how many were `posted`, `failed`, or
    `dropped` since too many were waiting.
    """

    def __init__(self, post: Post, node: str, now: Callable[[], datetime], outcomes: Counter[str]) -> None:
        self._outcomes = outcomes
        self._post = post
        self._node = node
        self._now = now
        self._waiting: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue(QUEUE_MAX)

    def tell(self, notice: Notice) -> None:
        """Have a notice posted, sooner or later."""
        try:
            self._waiting.put_nowait(event_object(notice, self._node, self._now()))
        except asyncio.QueueFull:
            self._outcomes["dropped"] += 1

    async def run(self) -> None:
        """Post what waits, until cancelled."""
        while True:
            namespace, event = await self._waiting.get()
            try:
                await self._post(namespace, event)
            except UproxyError:
                self._outcomes["failed"] += 1
            else:
                self._outcomes["posted"] += 1
            finally:
                self._waiting.task_done()

    async def flush(self) -> None:
        """Wait until nothing waits any more, but not for long."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._waiting.join(), FLUSH_S)
