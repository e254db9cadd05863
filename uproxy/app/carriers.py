"""Builds the data plane, with the relay that was asked for, and says which routes lead traffic to it."""

import asyncio
import logging
from ipaddress import ip_address, ip_network
from time import monotonic

from uproxy.dataplane.context import Context, Timeouts
from uproxy.dataplane.descriptors import Descriptors, descriptor_budget
from uproxy.dataplane.dial.ways_back import WaysBack
from uproxy.dataplane.proxy import Dataplane
from uproxy.dataplane.reactor import Reactor
from uproxy.dataplane.relay.native_relay import NativeRelay, engine_or_reason
from uproxy.dataplane.relay.python_relay import PythonRelay
from uproxy.dataplane.relays import Ended, Relay
from uproxy.errors import UproxyError
from uproxy.kit.netfilter import PROXY_MARK
from uproxy.model.frontend import DesiredServicePort, Frontend, FrontendKind, Treatment
from uproxy.model.names import IPNetwork, Protocol
from uproxy.settings import Settings
from uproxy.steering.bridges import BridgeAnswers
from uproxy.steering.landing import LANDING
from uproxy.steering.probe import Capture, Choice
from uproxy.steering.rules import RedirectPorts

_DIALS_A_CONNECTION = 4
"""How many endpoints may time out before a connection is given up; refusals cost no time."""
_FLOWS_SHARE = 4
_FLOWS_MAX = 16_384
"""UDP flows may take a quarter of the descriptors, and no more than this many."""

log = logging.getLogger("uproxy")
access = logging.getLogger("uproxy.access")


def new_dataplane(
    loop: asyncio.AbstractEventLoop, settings: Settings, choice: Choice, bridges: BridgeAnswers
) -> Dataplane:
    """The data plane, with a relay. Raises UproxyError when the native one is wanted and cannot be had."""
    budget = descriptor_budget()
    context = Context(
        loop,
        Reactor(loop),
        Descriptors(loop, budget),
        Timeouts(
            connect_s=settings.connect_timeout_s,
            dial_budget_s=settings.connect_timeout_s * _DIALS_A_CONNECTION,
            idle_s=settings.idle_timeout_s,
            half_closed_s=settings.half_closed_timeout_s,
        ),
        0 if choice.capture is Capture.BIND else PROXY_MARK,
        choice.capture is Capture.BIND,
        monotonic,
        foreign=choice.capture is not Capture.BIND,
        ways_back=WaysBack(monotonic, bridges.lifts) if choice.capture is Capture.TPROXY else None,
    )
    relay = _relay(settings, context)
    return Dataplane(context, relay, min(budget // _FLOWS_SHARE, _FLOWS_MAX), settings.udp_idle_timeout_s)


def _relay(settings: Settings, context: Context) -> Relay:
    """Build the relay asked for. Raises UproxyError when the native one is wanted and cannot be had."""
    if obstacle := relay_obstacle(settings):
        raise UproxyError(obstacle)
    ended = _log_access if settings.access_log else None
    reason = engine_or_reason() if settings.relay != "python" else None
    if settings.relay == "python":
        return PythonRelay(context, ended)
    if reason is None:
        return NativeRelay(context, settings.threads, ended)
    log.warning("the Python relay is used, which is slower: %s", reason)
    return PythonRelay(context, ended)


def relay_obstacle(settings: Settings) -> str:
    """Why the relay asked for cannot be had; empty when it can."""
    reason = engine_or_reason() if settings.relay == "native" else None
    return f"no native relay: {reason}" if reason is not None else ""


def redirect_ports(dataplane: Dataplane) -> RedirectPorts:
    """Listen for redirected connections of both families, or of IPv4 alone."""
    ipv4 = dataplane.listen_for_redirects(ip_address("0.0.0.0"))
    try:
        ipv6 = dataplane.listen_for_redirects(ip_address("::"))
    except OSError:
        log.info("this kernel has no IPv6: IPv6 addresses are not served")
        ipv6 = ipv4
    return RedirectPorts(ipv4, ipv6)


def routes_beside_rules(port: DesiredServicePort, frontend: Frontend) -> list[IPNetwork]:
    """Where TCP lands. Cluster IPs get a local route too, so that a node without a default route reaches
    them; they are nobody else's."""
    landing = [LANDING[frontend.vip.family].network] if port.name.protocol is Protocol.TCP else []
    return landing + (own_routes(port, frontend) if frontend.kind is FrontendKind.CLUSTER_IP else [])


def own_routes(_port: DesiredServicePort, frontend: Frontend) -> list[IPNetwork]:
    """Of its own address; the node's, where NodePorts are, are local already."""
    return [ip_network(frontend.vip.ip)] if frontend.kind is not FrontendKind.NODE_PORT else []


def needs_port_route(port: DesiredServicePort, frontend: Frontend) -> bool:
    """Of an external address a Service has its port, and no more. Where rules redirect TCP, a socket has to
    be bound for UDP alone; where none is, the rules refuse what would leave."""
    if port.name.protocol is not Protocol.UDP:
        return False
    is_external = frontend.kind not in (FrontendKind.CLUSTER_IP, FrontendKind.NODE_PORT)
    return is_external and port.treatment(frontend) in (Treatment.FORWARD, Treatment.INSIDE)


def _log_access(ended: Ended) -> None:
    access.info(
        "connection",
        extra={
            "fields": {
                "service": str(ended.service_port),
                "client": ended.client,
                "backend": str(ended.backend) if ended.backend is not None else "-",
                "bytes_to_backend": ended.bytes_to_backend,
                "bytes_to_client": ended.bytes_to_client,
                "duration_s": round(ended.duration_s, 6),
                "reason": str(ended.reason),
            }
        },
    )
