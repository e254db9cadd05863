"""Session affinity ClientIP, as told by who carried a Service port to who carries it next."""

from typing import NamedTuple

from uproxy.model.frontend import Backend


class Pinned(NamedTuple):
    """A client that is to go on to the endpoint it went to."""

    client: str
    """Its address."""
    backend: Backend
    idle_s: float
    """Since it made its last connection."""
