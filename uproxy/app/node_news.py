"""What the log says of the own Node: that it is not there, or leaves, and /healthz is 503 for that."""

import logging
from collections.abc import Mapping

from uproxy.model.frontend import Changes
from uproxy.model.names import Vip
from uproxy.state.store import Store

log = logging.getLogger("uproxy")

_LEAVING = "is being deleted, or tainted ToBeDeletedByClusterAutoscaler: /healthz is 503"
_MISSING = "is not in the cluster (--hostname-override?): no endpoint is local, /healthz is 503"


class NodeNews:
    """A target that programs nothing, and looks at the Node after each change."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._name = name
        self._told = ""

    async def make(self, _changes: Changes) -> Mapping[Vip, str]:
        """Tell what is wrong with the Node, when that has changed."""
        node = self._store.node
        trouble = _MISSING if node is None else _LEAVING if node.leaving else ""
        if trouble and trouble != self._told:
            log.warning("node %s %s", self._name, trouble)
        elif self._told and not trouble:
            log.info("node %s takes new traffic again", self._name)
        self._told = trouble
        return {}

    async def retire(self, _changes: Changes) -> None:
        """There is nothing to retire."""

    async def prune(self) -> None:
        """Lines in a log stay."""

    async def close(self) -> None:
        """There is nothing to close."""
