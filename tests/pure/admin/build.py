"""Hand-made Service ports, for the tests of what looks at them."""

from ipaddress import ip_address

from uproxy.model.faults import Fault
from uproxy.model.frontend import Backend, DesiredServicePort, EndpointState, Frontend, FrontendKind
from uproxy.model.names import NamespacedName, Protocol, ServicePortName, Vip
from uproxy.model.options import DEFAULT_OPTIONS
from uproxy.picking.balancing.balancer import open_flows
from uproxy.picking.routes import ProgrammedPort

READY, TERMINATING, NOT_READY = EndpointState


def backend(text: str) -> Backend:
    ip, port = text.rsplit(":", 1)
    return Backend(ip_address(ip.strip("[]")), int(port))


def desired(
    endpoints=None,
    *,
    vips=("172.30.0.1",),
    name="web",
    port_name="http",
    port=80,
    protocol=Protocol.TCP,
    notes=(),
    options=DEFAULT_OPTIONS,
) -> DesiredServicePort:
    """A Service port; without `endpoints` it has one, which is ready."""
    given = {"10.0.0.1:8080": READY} if endpoints is None else endpoints
    states = {backend(text): state for text, state in given.items()}
    usable = {
        family: tuple(b for b, state in states.items() if state is READY and b.ip.version == family)
        for family in (4, 6)
    }
    ips = [ip_address(vip) for vip in vips]
    frontends = tuple(Frontend(Vip(ip, port, protocol), FrontendKind.CLUSTER_IP, ip.version) for ip in ips)
    spn = ServicePortName("default", name, port_name, protocol)
    return DesiredServicePort(spn, port, frontends, states, usable, None, notes, options=options)


def programmed(*args, **kwargs) -> ProgrammedPort:
    return ProgrammedPort(desired(*args, **kwargs), open_flows, 0.0)


def fault(message="must be a number", name="web", kind="Service", field="spec.ports[0].port") -> Fault:
    return Fault("web.yaml", 1, kind, NamespacedName("default", name), field, message)
