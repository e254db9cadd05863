"""All objects as they are now, and the desired state that follows from them.

Pure. Owns folding events in, and rebuilding only the Services that an event touches: the
cost of a change does not depend on how many Services there are. Service-first and
slice-first deliveries end in the same state, except that of two Services which claim one
address the first to come keeps it.
"""

from collections import defaultdict
from collections.abc import Generator, Iterable

from uproxy.errors import AddressesExhausted
from uproxy.model.endpoint import Endpoint, EndpointSlice, Origin, Pod
from uproxy.model.events import (
    Delete,
    Event,
    Faulted,
    KubernetesObject,
    LocalAddresses,
    Resolved,
    Synced,
    Upsert,
)
from uproxy.model.faults import Fault
from uproxy.model.frontend import Backend, Changes, DesiredServicePort, Frontend
from uproxy.model.names import Family, IPAddress, IPNetwork, NamespacedName, Protocol, ServicePortName
from uproxy.model.node import Node
from uproxy.model.service import Service, ServicePort
from uproxy.state.addresses import (
    AddressPlan,
    Claims,
    ClusterIPAllocator,
    cluster_frontends,
    frontends,
    needs_allocation,
)
from uproxy.state.labels import LabelIndex
from uproxy.state.node_ports import EVERYWHERE, NodePortPlan, node_port_ips
from uproxy.state.policy import Here, known_here, local, usable
from uproxy.state.selection import (
    authoritative,
    endpoints_of,
    local_ready_endpoints,
    slices_from_pods,
    state_of,
)


class Store:
    """Objects in, desired state out."""

    def __init__(
        self,
        plan: AddressPlan,
        node_name: str | None = None,
        cluster_cidrs: tuple[IPNetwork, ...] = (),
        node_ports: NodePortPlan = EVERYWHERE,
    ) -> None:
        """`node_name` is the own node's; None without a cluster, when everything counts as local.
        `cluster_cidrs` is where Pods are, when the node's own `podCIDRs` are not to be asked."""
        self.services: dict[NamespacedName, Service] = {}
        self.desired: dict[ServicePortName, DesiredServicePort] = {}
        self.faults: dict[str, tuple[Fault, ...]] = {}
        self.synced: set[str] = set()
        self.health_checks: dict[NamespacedName, int] = {}
        """The port of each Service whose load balancer asks this node whether to send it traffic."""
        self.node: Node | None = None
        """The own node, while it is known."""
        self.node_port_ips: tuple[IPAddress, ...] = ()
        """The node's addresses that serve NodePorts; 0.0.0.0 and :: stand for all of their family."""
        self._node_name = node_name
        self._cluster_cidrs = cluster_cidrs
        self._node_ports = node_ports
        self._local_ips: tuple[IPAddress, ...] = ()
        self._own_ips: frozenset[IPAddress] = frozenset()
        self._inside_told: tuple[IPNetwork, ...] = ()
        self._plan = plan
        self._allocator = ClusterIPAllocator(plan.service_cidr)
        self._claims = Claims()
        self._labels = LabelIndex()
        self._pods: dict[NamespacedName, Pod] = {}
        self._slices: defaultdict[NamespacedName, dict[tuple[Origin, NamespacedName], EndpointSlice]]
        self._slices = defaultdict(dict)
        self._slice_homes: dict[tuple[Origin, NamespacedName], NamespacedName] = {}
        self._resolutions: dict[str, tuple[IPAddress, ...]] = {}
        self._host_users: defaultdict[str, set[NamespacedName]] = defaultdict(set)
        self._hosts_of: dict[NamespacedName, set[str]] = {}
        self._ports_of: dict[NamespacedName, set[ServicePortName]] = {}
        self._dirty: set[NamespacedName] = set()
        self._place_node_ports()

    @property
    def hosts(self) -> frozenset[str]:
        """Host names among the endpoints, whose addresses somebody should look up."""
        return frozenset(host for host, users in self._host_users.items() if users)

    def service_of_slice(self, key: NamespacedName) -> NamespacedName | None:
        """The Service that an EndpointSlice belongs to, if the slice is known."""
        return self._slice_homes.get((Origin.ENDPOINT_SLICE, key))

    def local_ready_endpoints(self, key: NamespacedName) -> int:
        """How many ready endpoints of a Service run on this node."""
        service = self.services.get(key)
        return local_ready_endpoints(self._slices_of(service), self._node_name) if service is not None else 0

    def known_slice(self, piece: EndpointSlice) -> EndpointSlice | None:
        """The version of `piece` that is in force."""
        key = (piece.origin, piece.key)
        home = self._slice_homes.get(key)
        return None if home is None else self._slices[home].get(key)

    def apply(self, events: Iterable[Event]) -> Changes:
        """Fold events in; returns what became different, and nothing that did not."""
        steps = self.applying(events)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                changes: Changes = done.value
                return changes

    def applying(self, events: Iterable[Event]) -> Generator[None, None, Changes]:
        """The same in steps, one for each Service at most: whoever has thousands of them to do can do
        something else in between. Until the end `desired` is neither what it was nor what it will be."""
        for event in events:
            self._fold(event)
        return (yield from self._rebuild())

    # ---- folding ----

    def _fold(self, event: Event) -> None:
        match event:
            case Upsert(thing):
                self._replace(thing, present=True)
            case Delete(thing):
                self._replace(thing, present=False)
            case Faulted(source, faults):
                self.faults[source] = faults
            case Synced(source):
                self.synced.add(source)
            case Resolved(host, addresses):
                if self._resolutions.get(host) != addresses:
                    self._resolutions[host] = addresses
                    self._dirty |= self._host_users[host]
            case LocalAddresses(addresses):
                self._local_ips = addresses
                self._place_node_ports()
                self._dirty |= self.services.keys()

    def _replace(self, thing: KubernetesObject, *, present: bool) -> None:
        match thing:
            case Service():
                self._replace_service(thing, present=present)
            case EndpointSlice():
                self._replace_slice(thing, present=present)
            case Pod():
                self._replace_pod(thing, present=present)
            case Node():
                self._replace_node(thing, present=present)

    def _replace_service(self, service: Service, *, present: bool) -> None:
        before = self.services.pop(service.key, None)
        self.health_checks.pop(service.key, None)
        if before is not None:
            self._labels.remove_service(before)
            for ip in before.cluster_ips:
                self._allocator.unreserve(ip)
        if present:
            self.services[service.key] = service
            if service.health_check_node_port is not None and service.captured:
                self.health_checks[service.key] = service.health_check_node_port
            self._labels.add_service(service)
            for ip in service.cluster_ips:
                displaced = self._allocator.reserve(ip)
                self._dirty |= {displaced} if displaced else set()
        self._dirty.add(service.key)

    def _replace_slice(self, piece: EndpointSlice, *, present: bool) -> None:
        key = (piece.origin, piece.key)
        home = self._slice_homes.pop(key, None)
        if home is not None:
            self._dirty.add(home)
            if not present or home != piece.service:  # its label may name another Service now
                del self._slices[home][key]
        if present:
            self._slice_homes[key] = piece.service
            self._slices[piece.service][key] = piece
            self._dirty.add(piece.service)

    def _replace_pod(self, pod: Pod, *, present: bool) -> None:
        known = self._pods.pop(pod.key, None)
        for version in (known, pod if present else None):
            if version is not None:
                self._dirty |= self._labels.selecting(version)
        if known is not None:
            self._labels.remove_pod(known)
        if present:
            self._pods[pod.key] = pod
            self._labels.add_pod(pod)

    def _replace_node(self, node: Node, *, present: bool) -> None:
        """Other nodes do not matter here. The own one does, to every Service."""
        known = node if present else None
        if node.name == self._node_name and known != self.node:
            self.node = known
            self._place_node_ports()
            self._dirty |= self.services.keys()

    def _place_node_ports(self) -> None:
        self.node_port_ips = node_port_ips(self._node_ports, self._local_ips, self.node)
        addresses = self.node.addresses if self.node is not None else ()
        self._own_ips = frozenset(ip for ip in (*addresses, *self._local_ips) if not ip.is_loopback)

    # ---- rebuilding ----

    def _rebuild(self) -> Generator[None, None, Changes]:
        updated: dict[ServicePortName, DesiredServicePort] = {}
        removed: set[ServicePortName] = set()
        while self._dirty:
            # In order of names, so that who gets an address does not depend on chance.
            batch, self._dirty = sorted(self._dirty), set()
            for key in batch:
                self._release_address(key)
            for key in batch:
                self._rebuild_service(key, updated, removed)
                yield
        return Changes(tuple(updated.values()), tuple(removed - updated.keys()), self._inside_news())

    def _inside_news(self) -> tuple[IPNetwork, ...] | None:
        inside = self._cluster_cidrs or (self.node.pod_cidrs if self.node is not None else ())
        before, self._inside_told = self._inside_told, inside
        return inside if inside != before else None

    def _release_address(self, key: NamespacedName) -> None:
        service = self.services.get(key)
        if service is None or not service.captured or not needs_allocation(service, self._plan):
            self._allocator.release(key)

    def _rebuild_service(
        self,
        key: NamespacedName,
        updated: dict[ServicePortName, DesiredServicePort],
        removed: set[ServicePortName],
    ) -> None:
        before = self._ports_of.get(key, set())
        service = self.services.get(key)
        now = self._desire(service) if service is not None and service.captured else {}
        for name in before - now.keys():
            self._release(name, self.desired.pop(name).frontends)
            updated.pop(name, None)
            removed.add(name)
        for name, desired in now.items():
            if self.desired.get(name) != desired:
                self.desired[name] = updated[name] = desired
                removed.discard(name)
        self._ports_of[key] = set(now)
        if not now:
            del self._ports_of[key]

    def _desire(self, service: Service) -> dict[ServicePortName, DesiredServicePort]:
        slices = self._slices_of(service)
        self._note_hosts(service.key, slices)
        try:
            cluster = cluster_frontends(service, self._plan, self._allocator.allocate)
        except AddressesExhausted as error:
            return {_name(service, port): self._unserved(service, port, str(error)) for port in service.ports}
        return {
            _name(service, port): self._desire_port(service, port, cluster, slices) for port in service.ports
        }

    def _unserved(self, service: Service, port: ServicePort, why: str) -> DesiredServicePort:
        return DesiredServicePort(_name(service, port), port.port, (), {}, {}, notes=(why,))

    def _desire_port(
        self,
        service: Service,
        port: ServicePort,
        cluster: list[tuple[IPAddress, Family]],
        slices: list[EndpointSlice],
    ) -> DesiredServicePort:
        name = _name(service, port)
        if port.protocol is Protocol.SCTP:
            return self._unserved(service, port, "SCTP is not relayed")
        wanted, notes = frontends(
            service,
            port,
            cluster,
            self._plan,
            node=self.node,
            node_port_ips=self.node_port_ips,
            own=self._own_ips,
        )
        held, conflicts = self._claim(name, wanted)
        members, loops = self._without_loops(endpoints_of(port, slices, self._resolutions), port.protocol)
        here = Here(self._node_name, self.node.zone if self.node is not None else None)
        return DesiredServicePort(
            name,
            port.port,
            tuple(held),
            {backend: state_of(endpoint) for backend, endpoint in members.items()},
            usable(members, here),
            service.affinity_timeout_s,
            (*notes, *conflicts, *loops, *service.option_faults),
            local(members, here) if any(frontend.local for frontend in held) else {},
            service.options,
            frozenset(backend for backend, its in members.items() if its.terminating and not its.serving),
            known_here(members, here),
        )

    def _claim(self, name: ServicePortName, wanted: list[Frontend]) -> tuple[list[Frontend], list[str]]:
        before = self.desired.get(name)
        if before is not None:
            keep = {frontend.vip for frontend in wanted}
            self._release(name, [frontend for frontend in before.frontends if frontend.vip not in keep])
        held, conflicts = [], []
        for frontend in wanted:
            owner = self._claims.claim(frontend.vip, name)
            if owner is None:
                held.append(frontend)
            else:
                conflicts.append(f"{frontend.vip} belongs to {owner} already")
        return held, conflicts

    def _without_loops(
        self, endpoints: dict[Backend, Endpoint], protocol: Protocol
    ) -> tuple[dict[Backend, Endpoint], list[str]]:
        """Leave out endpoints that are Services' own addresses: dialling them would go in circles.

        Every circle has an edge to an address that was claimed before that edge came, so
        looking at the claims of the moment is enough.
        """
        loops = self._claims.loops(endpoints.keys(), protocol)
        for backend in loops:
            del endpoints[backend]
        return endpoints, [f"{backend} is a Service's address and no endpoint" for backend in loops]

    def _release(self, name: ServicePortName, frontends_: Iterable[Frontend]) -> None:
        for frontend in frontends_:
            self._dirty |= self._claims.release(frontend.vip, name)

    def _slices_of(self, service: Service) -> list[EndpointSlice]:
        given = list(self._slices[service.key].values())
        if all(piece.origin is Origin.FLAG for piece in given):
            given += slices_from_pods(service, self._labels.candidates(service))
        return authoritative(given)

    def _note_hosts(self, key: NamespacedName, slices: list[EndpointSlice]) -> None:
        hosts = {e.host for piece in slices for e in piece.endpoints if isinstance(e.host, str)}
        for host in self._hosts_of.pop(key, set()) - hosts:
            self._host_users[host].discard(key)
        for host in hosts:
            self._host_users[host].add(key)
        if hosts:
            self._hosts_of[key] = hosts


def _name(service: Service, port: ServicePort) -> ServicePortName:
    return ServicePortName(*service.key, port.name, port.protocol)
