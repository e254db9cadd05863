"""Which addresses a Service is served on.

Pure. Owns cluster IPs for Services whose manifest has none, the same ones every time;
loopback stand-ins for addresses that cannot be bound; and which Service port an address
belongs to when two claim it.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, KeysView
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address, ip_network

from uproxy.errors import AddressesExhausted
from uproxy.model.frontend import Backend, Frontend, FrontendKind
from uproxy.model.names import Family, IPAddress, IPNetwork, NamespacedName, Protocol, ServicePortName, Vip
from uproxy.model.node import OWN_SOURCE, Node
from uproxy.model.service import Service, ServicePort, ServiceType
from uproxy.model.special import special

_STAND_IN_PORTS = 8000
_ANY: dict[Family, IPAddress] = {4: ip_address("0.0.0.0"), 6: ip_address("::")}
ANYWHERE = tuple(_ANY.values())
"""All addresses of the node."""


class ClusterIPAllocator:
    """Gives Services without a cluster IP one from a network.

    The first choice depends on the Service's name only, so it is the same in every run;
    two names that choose the same address are told apart in order of their names.
    """

    def __init__(self, network: IPNetwork) -> None:
        self._network = network
        self._by_owner: dict[NamespacedName, IPAddress] = {}
        self._by_ip: dict[IPAddress, NamespacedName] = {}
        self._reserved: Counter[IPAddress] = Counter()

    def allocate(self, owner: NamespacedName) -> IPAddress:
        """The address of `owner`, chosen when it has none yet.

        Raises AddressesExhausted when the network is full.
        """
        present = self._by_owner.get(owner)
        if present is not None:
            return present
        base = min(1, self._network.num_addresses - 1)  # the network's own address is left out
        usable = max(self._network.num_addresses - 2, 1)  # and the last one, its broadcast address
        first = int.from_bytes(hashlib.sha256(str(owner).encode()).digest()[:8])
        for step in range(usable):
            ip = self._network[base + (first + step) % usable]
            if ip not in self._by_ip and ip not in self._reserved:
                self._by_ip[ip] = owner
                self._by_owner[owner] = ip
                return ip
        raise AddressesExhausted(f"no free address is left in {self._network}")

    def release(self, owner: NamespacedName) -> None:
        """`owner` is gone, or has an address of its own now."""
        ip = self._by_owner.pop(owner, None)
        if ip is not None:
            del self._by_ip[ip]

    def reserve(self, ip: IPAddress) -> NamespacedName | None:
        """Keep `ip`, which a manifest names, out of allocation.

        Returns the Service that has to move away from it, if it was allocated.
        """
        self._reserved[ip] += 1
        owner = self._by_ip.pop(ip, None)
        if owner is not None:
            del self._by_owner[owner]
        return owner

    def unreserve(self, ip: IPAddress) -> None:
        """One manifest fewer names `ip`."""
        self._reserved[ip] -= 1
        if self._reserved[ip] == 0:
            del self._reserved[ip]


@dataclass(frozen=True, slots=True)
class AddressPlan:
    """How addresses of Services become addresses that this machine can serve."""

    service_cidr: IPNetwork
    loopback_only: bool
    """Only loopback addresses can be bound: everything else gets a stand-in or a note."""
    first_port: int = 0
    """Lowest port that can be listened on; those below get a stand-in 8000 higher."""
    shared: bool = False
    """Services are written by others than who runs the node, who may have what they like on loopback
    addresses."""

    def port(self, number: int) -> int:
        """The port on which a Service's port is served: 80 may have to become 8080."""
        return number if number >= self.first_port else number + _STAND_IN_PORTS


def cluster_frontends(
    service: Service, plan: AddressPlan, allocate: Callable[[NamespacedName], IPAddress]
) -> list[tuple[IPAddress, Family]]:
    """The addresses for the Service's cluster IPs, each with the family of its endpoints."""
    stays = [ip for ip in service.cluster_ips if not plan.loopback_only or _bindable(ip)]
    served: list[tuple[IPAddress, Family]] = [(ip, ip.version) for ip in stays]
    if not served:
        ip = allocate(service.key)
        families = [own.version for own in service.cluster_ips] or [*service.ip_families, ip.version]
        served.append((ip, ip.version if ip.version in families else families[0]))
    return served


def needs_allocation(service: Service, plan: AddressPlan) -> bool:
    """Whether none of the addresses in the manifest can be the cluster IP."""
    return not any(not plan.loopback_only or _bindable(ip) for ip in service.cluster_ips)


def _bindable(ip: IPAddress) -> bool:
    return ip.is_loopback and ip.version == 4  # of IPv6, loopback is one address only


def frontends(
    service: Service,
    port: ServicePort,
    cluster: Iterable[tuple[IPAddress, Family]],
    plan: AddressPlan,
    *,
    node: Node | None = None,
    node_port_ips: Iterable[IPAddress] = ANYWHERE,
    own: Collection[IPAddress] = (),
) -> tuple[list[Frontend], list[str]]:
    """Every frontend of one Service port, and notes on addresses that are not served. `own` are the
    node's addresses, as far as they are known, which are no cluster IPs."""
    number = plan.port(port.port)

    def frontend(ip: IPAddress, number: int, kind: FrontendKind, family: Family) -> Frontend:
        is_internal = kind is FrontendKind.CLUSTER_IP
        return Frontend(
            Vip(ip, number, port.protocol),
            kind,
            family,
            service.internal_local if is_internal else service.external_local,
            _allowed(service, ip, node) if kind is FrontendKind.LOAD_BALANCER else (),
        )

    bad = {ip: _refusal(ip, own, shared=plan.shared) for ip in service.cluster_ips}
    notes = [f"cluster IP {ip} is not served: it is {why}" for ip, why in bad.items() if why]
    found = [
        frontend(ip, number, FrontendKind.CLUSTER_IP, family) for ip, family in cluster if not bad.get(ip)
    ]
    external = [(ip, FrontendKind.EXTERNAL_IP) for ip in service.external_ips]
    external += [(ip, FrontendKind.LOAD_BALANCER) for ip in service.load_balancer_ips]
    for ip, kind in external:
        if plan.loopback_only and not ip.is_loopback:
            notes.append(f"{kind} {ip} is not served: without root only loopback addresses can be")
        elif why := _refusal(ip, shared=plan.shared):
            notes.append(f"{kind} {ip} is not served: it is {why}")
        else:
            found.append(frontend(ip, number, kind, ip.version))
    if port.node_port is not None and service.type is not ServiceType.CLUSTER_IP:
        families = _node_port_families(service, found)
        found += [
            frontend(ip, port.node_port, FrontendKind.NODE_PORT, ip.version)
            for ip in node_port_ips
            if ip.version in families
        ]
    return found, notes


def _refusal(ip: IPAddress, own: Collection[IPAddress] = (), *, shared: bool) -> str:
    if ip in own:
        return "the node's own address"
    kind = special(ip, loopback=not shared)
    return f"{'an' if kind.startswith('u') else 'a'} {kind} address" if kind else ""


def _node_port_families(service: Service, found: Iterable[Frontend]) -> list[Family]:
    named = service.ip_families or [ip.version for ip in service.cluster_ips]
    return sorted(set(named or [frontend.family for frontend in found]))


def _allowed(service: Service, ip: IPAddress, node: Node | None) -> tuple[IPNetwork, ...]:
    """Who may use a load balancer's address, by kube-proxy's rules: ranges of the other family say
    nothing about this one; a range of everybody is none; and where the node itself is let in, so is
    the address, which is what the node's own connections to it come from, and what its datagrams do.
    """
    # Collapsed, because nftables refuses intervals that overlap.
    ranges: tuple[IPNetwork, ...] = (
        tuple(collapse_addresses(n for n in service.source_ranges if isinstance(n, IPv4Network)))
        if ip.version == 4
        else tuple(collapse_addresses(n for n in service.source_ranges if isinstance(n, IPv6Network)))
    )
    if any(network.prefixlen == 0 for network in ranges):
        return ()
    own = node.addresses if node is not None else ()
    if any(address in network for address in own for network in ranges):
        sources = (ip, OWN_SOURCE) if ip.version == 4 else (ip,)
        others = (its for its in sources if not any(its in network for network in ranges))
        return (*ranges, *map(ip_network, others))
    return ranges


class Claims:
    """Whose each VIP is: the first to claim it keeps it, the next is told by whom it is held."""

    def __init__(self) -> None:
        self._owners: dict[Vip, ServicePortName] = {}
        self._losers: dict[Vip, set[NamespacedName]] = {}
        self._by_protocol: dict[Protocol, set[Backend]] = {protocol: set() for protocol in Protocol}
        """The same addresses, as endpoints name them."""
        self._node_ports = 0

    def claim(self, vip: Vip, name: ServicePortName) -> ServicePortName | None:
        """Claim `vip` for `name`; returns another that has it already."""
        owner = self._owners.get(vip)
        if owner is None:
            self._owners[vip] = name
            self._by_protocol[vip.protocol].add(Backend(vip.ip, vip.port))
            self._node_ports += vip.is_node_port
        if owner is None or owner == name:
            return None
        self._losers.setdefault(vip, set()).add(name.service)
        return owner

    def loops(self, backends: KeysView[Backend], protocol: Protocol) -> list[Backend]:
        """Those to which a connection would come back to the proxy itself, in their order."""
        claimed = self._by_protocol[protocol]
        found = backends & claimed
        if self._node_ports:
            local = [backend for backend in backends if backend.ip.is_loopback]
            found |= {b for b in local if Backend(_ANY[b.ip.version], b.port) in claimed}
        return [backend for backend in backends if backend in found] if found else []

    def release(self, vip: Vip, name: ServicePortName) -> set[NamespacedName]:
        """Give `vip` up; returns the Services that wanted it and should claim again."""
        if self._owners.get(vip) != name:
            return set()
        del self._owners[vip]
        self._by_protocol[vip.protocol].discard(Backend(vip.ip, vip.port))
        self._node_ports -= vip.is_node_port
        return self._losers.pop(vip, set())
