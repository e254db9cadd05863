"""The rules for Service (v1)."""

from ipaddress import ip_network

from uproxy.model.names import Family, IPAddress, IPNetwork, NamespacedName, Protocol
from uproxy.model.options import DEFAULT_OPTIONS, Options, parse_options
from uproxy.model.service import Service, ServicePort, ServiceType
from uproxy.sources.cursor import Cursor, fault_repeats, shown

PROTOCOLS = {protocol.value: protocol for protocol in Protocol}
_TYPES = {kind.value: kind for kind in ServiceType}
_WITH_NODE_PORTS = (ServiceType.NODE_PORT, ServiceType.LOAD_BALANCER)
_FAMILIES: dict[str, Family] = {"IPv4": 4, "IPv6": 6}
_DAY_S = 86400
_DEFAULT_AFFINITY_S = 10800
_POLICIES = {"Cluster": False, "Local": True}


def service(root: Cursor, key: NamespacedName) -> tuple[Service]:
    """A Service with all that a proxy needs of it."""
    spec = root.at("spec")
    kind = spec.at("type").choice(_TYPES, ServiceType.CLUSTER_IP)
    headless, cluster_ips = _cluster_ips(spec, kind)
    labels = root.at("metadata", "labels").texts()
    if kind is ServiceType.EXTERNAL_NAME:
        spec.at("externalName").required().text()
    return (
        Service(
            key=key,
            ports=_ports(spec, kind, headless),
            type=kind,
            headless=headless,
            cluster_ips=cluster_ips,
            external_ips=_addresses(spec.at("externalIPs").items()),
            load_balancer_ips=_load_balancer_ips(root.at("status", "loadBalancer", "ingress"), kind),
            ip_families=_ip_families(spec, cluster_ips),
            affinity_timeout_s=_affinity_timeout_s(spec),
            selector=spec.at("selector").texts(),
            publish_not_ready_addresses=spec.at("publishNotReadyAddresses").boolean(default=False),
            internal_local=spec.at("internalTrafficPolicy").choice(_POLICIES, default=False),
            external_local=_external_local(spec, kind),
            source_ranges=_source_ranges(root, kind),
            health_check_node_port=_health_check_node_port(spec, kind),
            external_name=spec.at("externalName").text(),
            options=_options(root),
            proxy_name=labels.get("service.kubernetes.io/service-proxy-name"),
        ),
    )


def _addresses(items: list[Cursor]) -> tuple[IPAddress, ...]:
    read = (item.required().address() for item in items)
    return tuple(dict.fromkeys(address for address in read if address))


def _cluster_ips(spec: Cursor, kind: ServiceType) -> tuple[bool, tuple[IPAddress, ...]]:
    """Whether the Service is headless, and its addresses otherwise."""
    single, several = spec.at("clusterIP"), spec.at("clusterIPs")
    given = [item for item in several.items() if item.value != ""]
    if single.text():
        if given and given[0].value != single.value:
            given[0].fault(f"must be {shown(single.value)} as clusterIP, not {shown(given[0].value)}")
        given = given or [single]
    if given and kind is ServiceType.EXTERNAL_NAME:
        given[0].fault("may not be set for type ExternalName")
    if any(item.value == "None" for item in given):
        _check_headless(given, kind)
        return True, ()
    addresses = _addresses(given)
    if len(given) > len({address.version for address in addresses}) > 0:
        several.fault("may have one IPv4 and one IPv6 address at most")
    return False, addresses


def _check_headless(given: list[Cursor], kind: ServiceType) -> None:
    if len(given) > 1:
        given[1].fault("may not stand beside None")
    if kind in _WITH_NODE_PORTS:
        given[0].fault(f"may not be None for type {kind}")


def _ip_families(spec: Cursor, cluster_ips: tuple[IPAddress, ...]) -> tuple[Family, ...]:
    items = spec.at("ipFamilies").items()
    families = tuple(item.required().choice(_FAMILIES, 4) for item in items)
    fault_repeats((item, item.value) for item in items if isinstance(item.value, str))
    for item, family, address in zip(items, families, cluster_ips, strict=False):
        if address.version != family:
            item.fault(f"must be the family of {address}, not {shown(item.value)}")
    return families


def _ports(spec: Cursor, kind: ServiceType, headless: bool) -> tuple[ServicePort, ...]:
    items = spec.at("ports").items()
    if not items and not headless and kind is not ServiceType.EXTERNAL_NAME:
        spec.at("ports").required()
    ports = tuple(_port(item, kind) for item in items)
    if len(items) > 1:
        for item in items:
            item.at("name").required()
    fault_repeats((item.at("name"), port.name) for item, port in zip(items, ports, strict=True))
    fault_repeats(
        (item.at("port"), port.port and (port.protocol, port.port))
        for item, port in zip(items, ports, strict=True)
    )
    fault_repeats(
        (item.at("nodePort"), port.node_port and (port.protocol, port.node_port))
        for item, port in zip(items, ports, strict=True)
    )
    return ports


def _port(item: Cursor, kind: ServiceType) -> ServicePort:
    port = item.at("port").required().port()
    return ServicePort(
        name=item.at("name").label(),
        protocol=item.at("protocol").choice(PROTOCOLS, Protocol.TCP),
        port=port,
        target_port=_target_port(item.at("targetPort"), port),
        node_port=_node_port(item.at("nodePort"), kind),
    )


def _target_port(target: Cursor, port: int) -> int | str:
    if target.value in (None, "", 0) and target.value is not False:
        return port
    return target.port_name() if isinstance(target.value, str) else target.port()


def _node_port(node_port: Cursor, kind: ServiceType) -> int | None:
    if node_port.value in (None, 0) and node_port.value is not False:
        return None
    if kind not in _WITH_NODE_PORTS:
        node_port.fault(f"may only be set for types {' and '.join(_WITH_NODE_PORTS)}, not {kind}")
    return node_port.port()


def _load_balancer_ips(ingress: Cursor, kind: ServiceType) -> tuple[IPAddress, ...]:
    """Addresses that packets keep on their way to the node; names and ipMode Proxy do not (KEP-1860)."""
    items = ingress.items()
    if items and kind is not ServiceType.LOAD_BALANCER:
        ingress.fault(f"may only be set for type LoadBalancer, not {kind}")
    is_vip = [item.at("ipMode").choice({"VIP": True, "Proxy": False}, default=True) for item in items]
    addresses = [item.at("ip").address() for item in items]
    pairs = zip(addresses, is_vip, strict=True)
    return tuple(dict.fromkeys(address for address, vip in pairs if address and vip))


def _affinity_timeout_s(spec: Cursor) -> int | None:
    config = spec.at("sessionAffinityConfig")
    if spec.at("sessionAffinity").choice({"None": False, "ClientIP": True}, default=False):
        return config.at("clientIP", "timeoutSeconds").integer(1, _DAY_S, default=_DEFAULT_AFFINITY_S)
    if config.value:
        config.fault("may only be set when sessionAffinity is ClientIP")
    return None


def _external_local(spec: Cursor, kind: ServiceType) -> bool:
    """Kinds that only have a cluster IP may have the policy too, for their externalIPs."""
    policy = spec.at("externalTrafficPolicy")
    is_external = kind in _WITH_NODE_PORTS or bool(spec.at("externalIPs").value)
    if policy.value and not is_external:
        policy.fault(f"may only be set for types {' and '.join(_WITH_NODE_PORTS)}, not {kind}")
    return policy.choice(_POLICIES, default=False)


def _health_check_node_port(spec: Cursor, kind: ServiceType) -> int | None:
    number = spec.at("healthCheckNodePort")
    if number.value in (None, 0) and number.value is not False:
        return None
    if kind is not ServiceType.LOAD_BALANCER or spec.at("externalTrafficPolicy").value != "Local":
        number.fault("may only be set for type LoadBalancer with externalTrafficPolicy Local")
    return number.port()


def _source_ranges(root: Cursor, kind: ServiceType) -> tuple[IPNetwork, ...]:
    """Spaces around a network are no fault, as in kube-proxy; everybody is meant by none at all."""
    field = root.at("spec", "loadBalancerSourceRanges")
    if field.value and kind is not ServiceType.LOAD_BALANCER:
        field.fault(f"may only be set for type LoadBalancer, not {kind}")
    networks = []
    for item in field.items():
        text = item.required().text().strip()
        try:
            networks.append(ip_network(text, strict=False))
        except ValueError:
            item.fault(f"must be a network such as 203.0.113.0/24, not {shown(item.value)}")
    return tuple(dict.fromkeys(networks))


def _options(root: Cursor) -> Options:
    annotations = root.at("metadata", "annotations")
    texts = annotations.texts()
    if not texts:
        return DEFAULT_OPTIONS
    options, faults = parse_options(texts)
    for key, message in faults:
        annotations.at(key).fault(message)
    return options
