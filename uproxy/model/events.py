"""What sources tell the reconcile loop. The only words that cross that line."""

from dataclasses import dataclass

from uproxy.model.endpoint import EndpointSlice, Pod
from uproxy.model.faults import Fault
from uproxy.model.names import IPAddress
from uproxy.model.node import Node
from uproxy.model.service import Service

KubernetesObject = Service | EndpointSlice | Pod | Node


@dataclass(frozen=True, slots=True)
class Upsert:
    """An object is now as given."""

    object: KubernetesObject


@dataclass(frozen=True, slots=True)
class Delete:
    """An object is gone; given as it last was."""

    object: KubernetesObject


@dataclass(frozen=True, slots=True)
class Faulted:
    """The faults that a source sees now; replaces what that source said before."""

    source: str
    faults: tuple[Fault, ...]


@dataclass(frozen=True, slots=True)
class Synced:
    """A source has delivered its first complete list. Nothing is programmed before all have."""

    source: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """The addresses behind a host name, as of now; never sent for a failed lookup."""

    host: str
    addresses: tuple[IPAddress, ...]


Event = Upsert | Delete | Faulted | Synced | Resolved
