"""Every scenario, by a packet tracer against the desired state."""

from ipaddress import ip_address, ip_network

import pytest

from tests.scenario import (
    NODE,
    NODE_IPS,
    OUTSIDE_IPS,
    PODS_CIDRS,
    PORTS,
    SECOND_PORTS,
    Packet,
    Scenario,
    Step,
    load_all,
    node_object,
    pod_ips,
)
from uproxy.model.events import Upsert
from uproxy.model.frontend import DesiredServicePort, Frontend, Treatment
from uproxy.model.names import Vip
from uproxy.sources.convert import convert
from uproxy.state.addresses import AddressPlan
from uproxy.state.store import Store

PLAN = AddressPlan(ip_network("10.96.0.0/16"), loopback_only=False)
FAMILIES = (4, 6)
PODS = {
    (ip, port): f"pod{number}{second}"
    for number in (1, 2, 3)
    for ip in pod_ips(number)
    for ports, second in ((PORTS, ""), (SECOND_PORTS, "-second"))
    for port in ports.values()
}


def serve(store: Store, step: Step) -> None:
    for thing in (node_object(), *step.objects):
        converted = convert(thing)
        assert not converted.faults, converted.faults
        store.apply([Upsert(one) for one in converted.objects])


def source_of(origin: str, family: int) -> str:
    if origin.startswith("pod"):
        return pod_ips(int(origin[3:]))[family == 6]
    return {"outside": OUTSIDE_IPS, "node": NODE_IPS}[origin][family == 6]


def found(
    store: Store, address: tuple[str, int], protocol: str
) -> tuple[DesiredServicePort, Frontend] | None:
    """Whose address it is: a VIP itself goes before a NodePort of any address of the node."""
    ip = ip_address(address[0])
    wildcard = ip_address("0.0.0.0" if ip.version == 4 else "::")
    for candidate in (ip, wildcard):
        for port in store.desired.values():
            for frontend in port.frontends:
                if frontend.vip == Vip(candidate, address[1], protocol):
                    return port, frontend
    return None


def trace(store: Store, scenario: Scenario, packet: Packet, family: int, protocol: str) -> frozenset[str]:
    address = scenario.address(packet.target, family, protocol)
    owned = found(store, address, protocol)
    if owned is None:
        # An address of the node itself is refused by its kernel; any other would go anywhere.
        return frozenset(("REJECT" if address[0] in NODE_IPS else "ELSEWHERE",))
    port, frontend = owned
    source = ip_address(source_of(packet.origin, family))
    is_own = packet.origin == "node"
    # The node's own connections to a VIP of its own may come from the VIP itself.
    sources = (source, ip_address(address[0])) if is_own else (source,)
    if frontend.allowed and not any(ip in network for ip in sources for network in frontend.allowed):
        return frozenset(("DROP",))
    inside = is_own or any(source in ip_network(cidr) for cidr in PODS_CIDRS)
    treatment = port.treatment(frontend)
    if treatment in (Treatment.REJECT, Treatment.DROP):
        return frozenset((treatment.name,))
    if treatment is Treatment.INSIDE and not inside:
        return frozenset(("DROP",))
    return frozenset(
        PODS[str(backend.ip), backend.port] for backend in port.backends(frontend, inside=inside)
    )


@pytest.mark.parametrize("scenario", load_all(), ids=lambda scenario: scenario.name)
def test_packets_go_where_they_should(scenario: Scenario) -> None:
    store = Store(PLAN, NODE)
    for number, step in enumerate(scenario.steps, 1):
        serve(store, step)
        for packet in step.packets:
            for family in FAMILIES:
                for protocol in ("TCP", "UDP"):
                    went = trace(store, scenario, packet, family, protocol)
                    words = f"step {number}: {packet.origin} -> {packet.target}, IPv{family} {protocol}"
                    assert went == packet.outcome, words
        for port in store.desired.values():
            assert (port.affinity_timeout_s is not None) == step.sticky
