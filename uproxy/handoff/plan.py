"""What the kernel is to serve for one Service port, as a value; or why it cannot. Pure.

Owns the list of what keeps a Service port in userspace: features that no rule in the kernel has.
Refuses to know how a mechanism programs it, and whether the Service port is worth it (`decision.py`).
"""

from dataclasses import dataclass

from uproxy.model.frontend import Backend, DesiredServicePort, Frontend
from uproxy.model.names import IPAddress, Protocol, ServicePortName, Vip
from uproxy.model.options import DEFAULT_OPTIONS, asked_for

_RELAY_ONLY = (
    "slow-start",
    "removed-endpoints",
    "max-connection-age",
    "max-connections-per-endpoint",
    "queue",
    "hold",
    "proxy-protocol",
)
"""Options that only a relay can follow."""


@dataclass(frozen=True, slots=True)
class KernelVip:
    """One address of a Service port, as the kernel is to serve it."""

    vip: Vip
    backends: tuple[Backend, ...]
    """For clients from outside, of the VIP's own family; empty where they get no answer."""
    inside: tuple[Backend, ...]
    """For clients on this node and in its Pods; the same, but where an external policy is Local."""
    guarded: bool = False
    """Only some get an answer (`loadBalancerSourceRanges`)."""


@dataclass(frozen=True, slots=True)
class KernelPort:
    """A Service port, as the kernel is to serve it."""

    name: ServicePortName
    vips: tuple[KernelVip, ...]
    affinity_timeout_s: int | None = None
    scheduler: str = "rr"
    """IPVS only."""
    here: frozenset[IPAddress] = frozenset()
    """Of all endpoints of these VIPs, the addresses that run on this node."""


def kernel_port(desired: DesiredServicePort) -> KernelPort | None:
    """The Service port with all of its addresses that have endpoints; None where none has, or `holding`
    has something to say."""
    if holding(desired):
        return None
    vips = tuple(found for frontend in desired.frontends if (found := _vip(desired, frontend)) is not None)
    scheduler = desired.options.ipvs_scheduler or "rr"
    if not vips:
        return None
    here = frozenset(one.ip for its in vips for one in {*its.backends, *its.inside} & desired.here)
    return KernelPort(desired.name, vips, desired.affinity_timeout_s, scheduler, here)


def holding(desired: DesiredServicePort) -> list[str]:
    """What keeps a Service port in userspace whatever its traffic; empty when nothing does."""
    if desired.name.protocol is Protocol.SCTP:
        return ["SCTP"]
    options = asked_for(desired.options)
    found = [name for name in _RELAY_ONLY if name in options]
    if desired.options.balancing is not DEFAULT_OPTIONS.balancing and not desired.options.ipvs_scheduler:
        found.append(f"balancing {desired.options.balancing}")
    if _keeps_datagrams_out(desired):
        found.append("source ranges of datagrams")
    if _joins_families(desired):
        found.append("endpoints of the other IP family")
    return found


def _vip(desired: DesiredServicePort, frontend: Frontend) -> KernelVip | None:
    """None for what stays with the relay: an address without endpoints, and one on loopback, from which the
    kernel would send packets to endpoints with a source that nobody else may have (RFC 1122 3.2.1.3)."""
    if frontend.vip.ip.is_loopback:
        return None
    outside, inside = desired.backends(frontend), desired.backends(frontend, inside=True)
    if not outside and not inside:
        return None
    return KernelVip(frontend.vip, outside, inside, bool(frontend.allowed))


def _keeps_datagrams_out(desired: DesiredServicePort) -> bool:
    """Those of the node itself are asked where `lo` brings them in; translated ones leave by another way."""
    udp = desired.name.protocol is Protocol.UDP
    return udp and any(frontend.allowed for frontend in desired.frontends)


def _joins_families(desired: DesiredServicePort) -> bool:
    """The kernel translates addresses within one family only."""
    return any(
        backend.ip.version != frontend.vip.family
        for frontend in desired.frontends
        for backend in desired.backends(frontend, inside=True)
    )
