"""A cluster as a source: Services, EndpointSlices and the own node, as events.

Owns which resources are followed, and that Synced is said once, when each has had its first complete
list; a cluster without our node is complete too. An API server that is away changes nothing of what was
said before.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from uproxy.model.endpoint import EndpointSlice, sharing
from uproxy.model.events import Delete, Event, KubernetesObject, Synced, Upsert
from uproxy.sources.kubernetes.access import Access
from uproxy.sources.kubernetes.api import Api
from uproxy.sources.kubernetes.complaints import Complaints
from uproxy.sources.kubernetes.errors import NotPosted, Trouble
from uproxy.sources.kubernetes.known import Known
from uproxy.sources.kubernetes.reflector import Reflector
from uproxy.sources.kubernetes.resources import Resource, endpoint_slices, own_node, services
from uproxy.sources.kubernetes.status import ResourceStatus
from uproxy.sources.kubernetes.timing import Timing

NAME = "kubernetes"
_SYSTEM_TIMING = Timing()


class ClusterSource:
    """The objects of one cluster, as they change.

    `emit` is called on the event loop: objects and the node first, then Synced, then differences.
    `proxy_name` is the value of the label service.kubernetes.io/service-proxy-name whose Services are
    ours (None: those without the label). `headless` asks for headless Services too, which DNS needs.
    """

    def __init__(
        self,
        emit: Callable[[Event], None],
        access: Access,
        node_name: str,
        *,
        proxy_name: str | None = None,
        headless: bool = False,
        timing: Timing = _SYSTEM_TIMING,
    ) -> None:
        self._emit = emit
        self._api = Api(access, timing.silence_max_s)
        self._timing = timing
        self._complaints = Complaints(timing.now)
        followed = (
            services(proxy_name, headless),
            endpoint_slices(proxy_name, headless),
            own_node(node_name),
        )
        self._reflectors = [self._reflector(resource) for resource in followed]
        self._awaited = len(self._reflectors)

    @property
    def status(self) -> tuple[ResourceStatus, ...]:
        """How each resource stands now."""
        return tuple(reflector.status for reflector in self._reflectors)

    async def post_event(self, namespace: str, event: dict[str, Any]) -> None:
        """Create an Event (events.k8s.io/v1). Raises UproxyError when that fails, for whatever reason."""
        try:
            await self._api.create(f"/apis/events.k8s.io/v1/namespaces/{namespace}/events", event)
        except (Trouble, TimeoutError) as error:
            raise NotPosted(str(error)) from error

    async def run(self) -> None:
        """Follow the cluster until cancelled.

        Raises AccessError when there are no credentials to begin with. What an API server says or does
        is never raised: it is in `status` and in the log, and is tried again.
        """
        tasks = [asyncio.ensure_future(reflector.run()) for reflector in self._reflectors]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._api.close()

    def _reflector(self, resource: Resource) -> Reflector:
        return Reflector(
            resource,
            Known(self._upsert, self._delete, like),
            self._api,
            timing=self._timing,
            complaints=self._complaints,
            completed=self._listed,
        )

    def _upsert(self, thing: KubernetesObject) -> None:
        self._emit(Upsert(thing))

    def _delete(self, thing: KubernetesObject) -> None:
        self._emit(Delete(thing))

    def _listed(self) -> None:
        self._awaited -= 1
        if not self._awaited:
            self._emit(Synced(NAME))


def like(before: KubernetesObject, now: KubernetesObject) -> KubernetesObject:
    """A new version, with what it has in common with the one before kept once."""
    if isinstance(before, EndpointSlice) and isinstance(now, EndpointSlice):
        return sharing(before, now)
    return now
