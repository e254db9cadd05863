"""What the settings and this machine come to: addresses, an empty store, who answers names, and the
lock on the network.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from time import monotonic

from uproxy.app.succession import Turn
from uproxy.dns.cluster_dns import ClusterDns, DnsSettings
from uproxy.dns.pods import PodMode
from uproxy.errors import UproxyError
from uproxy.kit.guests import Budget
from uproxy.model.names import IPNetwork
from uproxy.settings import LOOPBACK_SERVICE_CIDR, SERVICE_CIDR, LocalMode, Settings
from uproxy.state.addresses import AddressPlan
from uproxy.state.node_ports import NodePortPlan
from uproxy.state.store import Store
from uproxy.steering.lock import HELD, PATIENCE_S
from uproxy.steering.probe import Capture, Choice, Mechanism

_IPV6_ADDRESSES = Path("/proc/net/if_inet6")
"""Not there without IPv6 (proc(5))."""


def address_plan(cidr: IPNetwork | None, choice: Choice, first_port: int) -> AddressPlan:
    """Where and on which ports Services are served, under the capture chosen."""
    binds = choice.capture is Capture.BIND
    network = cidr or ip_network(LOOPBACK_SERVICE_CIDR if binds else SERVICE_CIDR)
    loopback_only = choice.mechanism is Mechanism.LOOPBACK
    return AddressPlan(network, loopback_only, first_port if binds else 0)


def served_plan(cidr: IPNetwork | None, choice: Choice, first_port: int) -> AddressPlan:
    """The same, for who is going to serve there. Raises UproxyError for a `cidr` that cannot be."""
    why = _unservable(cidr, choice) if cidr is not None else ""
    if why:
        raise UproxyError(f"--service-cidr {cidr} cannot be served here: {why}")
    return address_plan(cidr, choice, first_port)


def _unservable(cidr: IPNetwork, choice: Choice) -> str:
    if cidr.is_multicast or cidr.is_unspecified or cidr.is_link_local:
        return "its addresses are no host's"
    if cidr.version == 6 and not _IPV6_ADDRESSES.exists():
        return "this kernel has no IPv6"
    if choice.mechanism is Mechanism.LOOPBACK and not (cidr.version == 4 and cidr.is_loopback):
        return f"{choice.reason}: take a part of 127.0.0.0/8"
    return ""


def policy_note(choice: Choice) -> str:
    """What network policies are worth under a capture, in one line; empty where they hold, and where
    there are no Pods."""
    if choice.capture is Capture.TPROXY or choice.mechanism is Mechanism.LOOPBACK:
        return ""
    return (
        "network policies: a Pod that one keeps from another reaches it through a Service, "
        "which it sees as the node; tproxy keeps them"
    )


def new_store(settings: Settings, plan: AddressPlan) -> Store:
    """An empty one, which knows what the settings say of the node and its Pods."""
    own_cidrs = settings.detect_local_mode is LocalMode.NODE_CIDR
    return Store(
        replace(plan, shared=settings.from_cluster),
        settings.node_name if settings.is_one_of_many else None,
        () if own_cidrs else settings.cluster_cidrs,
        NodePortPlan(settings.node_port_addresses, settings.bind_address),
    )


def cluster_dns(settings: Settings, plan: AddressPlan, budget: Budget | None = None) -> ClusterDns | None:
    """What answers names, where that is asked for. Raises UproxyError for a domain that is none."""
    if not settings.dns_addresses:
        return None
    return ClusterDns(
        DnsSettings(
            settings.dns_addresses,
            settings.cluster_domain,
            settings.dns_upstream,
            PodMode(settings.dns_pods),
            (plan.service_cidr, *settings.cluster_cidrs),
        ),
        monotonic,
        budget,
    )


@contextmanager
def steering(choice: Choice, *, take_over: bool = False) -> Iterator[tuple[Choice, Turn | None]]:
    """Hold the machine's network for as long as it is programmed; yields what can be done.

    While another uproxy holds it, that one is waited for if we are to `take_over`. Else binding is left
    with loopback addresses, which need no programming; the turn is None then. Raises UproxyError where
    that is no way out.
    """
    if choice.mechanism is Mechanism.LOOPBACK:
        yield choice, None
        return
    turn = Turn()
    if not turn.try_lock(0.0 if take_over else PATIENCE_S) and not take_over:
        if choice.capture is not Capture.BIND:
            raise UproxyError(HELD)
        yield Choice(Capture.BIND, Mechanism.LOOPBACK, f"on loopback only, {HELD}"), None
        return
    try:
        yield choice, turn
    finally:
        turn.release()


def wall() -> datetime:
    """The present moment, in UTC."""
    return datetime.now(UTC)


def wall_s() -> float:
    """The present moment, as Unix time."""
    return wall().timestamp()
