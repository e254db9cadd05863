"""API objects into the model.

Owns what the fields mean to a Service proxy. An API server has checked and defaulted them. What this proxy
and the kernel rely on is checked all the same, since one odd value in a transaction of rules would stop all
of it: ports, addresses, and names, which also end up on terminals. What cannot be converted raises
ValueError, with words for a log. Rules of kube-proxy are followed where it has one
(pkg/proxy/serviceport.go, pkg/proxy/endpointslicecache.go).
"""

import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from sys import intern

from uproxy.model.endpoint import Endpoint, EndpointSlice, SlicePort
from uproxy.model.names import Family, IPAddress, NamespacedName, Protocol
from uproxy.model.node import Node
from uproxy.model.options import PREFIX, parse_options
from uproxy.model.service import Service, ServicePort, ServiceType
from uproxy.sources.kubernetes import wire
from uproxy.sources.kubernetes.addresses import addresses, networks, parse_endpoint

PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
_SERVICE_LABEL = "kubernetes.io/service-name"
_ZONE_LABEL = "topology.kubernetes.io/zone"
_TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"
_AUTOSCALER_TAINT = "ToBeDeletedByClusterAutoscaler"
_DEFAULT_AFFINITY_S = 10800
_LONGEST_AFFINITY_S = 86400
_NAME = re.compile(r"[A-Za-z0-9]([-.\w]{0,251}[A-Za-z0-9])?", re.ASCII)
"""Every kind of name that an API server takes, and more; nothing that a terminal or a rule minds."""
_FAMILIES: Mapping[str, Family] = {"IPv4": 4, "IPv6": 6}
_UNKNOWN = wire.Conditions()
_NOBODY: frozenset[str] = frozenset()

# Most slices have the same few ports, and most endpoints the same few zones: made once, kept once.
_slice_port = lru_cache(4096)(SlicePort)
_names = lru_cache(4096)(frozenset[str])


def service(given: wire.Service, proxy_name: str | None) -> Service:
    """A Service. One that is labelled for `proxy_name` is ours, and not another proxy's.

    Raises ValueError.
    """
    metadata, spec = given.metadata, given.spec or wire.ServiceSpec()
    options, faults = parse_options(_ours(metadata.annotations))
    label = (metadata.labels or {}).get(PROXY_NAME_LABEL)
    return Service(
        key=_key(metadata),
        ports=tuple(_service_port(port) for port in spec.ports or ()),
        type=ServiceType(spec.type or ServiceType.CLUSTER_IP),
        headless=spec.cluster_ip == "None",
        cluster_ips=_cluster_ips(spec),
        external_ips=addresses(spec.external_ips or ()),
        load_balancer_ips=_load_balancer_ips(given.status),
        ip_families=tuple(_FAMILIES[name] for name in spec.ip_families or () if name in _FAMILIES),
        affinity_timeout_s=_affinity_timeout_s(spec),
        selector=spec.selector or {},
        publish_not_ready_addresses=spec.publish_not_ready_addresses,
        internal_local=spec.internal_traffic_policy == "Local",
        external_local=spec.external_traffic_policy == "Local",
        source_ranges=networks(spec.load_balancer_source_ranges or ()),
        health_check_node_port=_number("healthCheckNodePort", spec.health_check_node_port) or None,
        external_name=spec.external_name,
        options=options,
        option_faults=tuple(f"{key}: {message}" for key, message in faults),
        proxy_name=None if label == proxy_name else label,
    )


def _key(metadata: wire.Metadata) -> NamespacedName:
    """Raises ValueError."""
    if not metadata.name:
        raise ValueError("it has no name")
    return NamespacedName(_name(metadata.namespace), _name(metadata.name))


def _name(text: str) -> str:
    if text and _NAME.fullmatch(text) is None:
        raise ValueError(f"{text[:100]!r} is no name")
    return text


def _number(field: str, given: int | None) -> int:
    """A port; 0 when there is none."""
    if given and not 0 < given <= 65535:
        raise ValueError(f"{field} must be 1 to 65535, not {given}")
    return given or 0


def _ours(annotations: Mapping[str, str] | None) -> Mapping[str, str]:
    """Most Services have none of ours; kubectl's can be long."""
    return {key: text for key, text in (annotations or {}).items() if key.startswith(PREFIX)}


def _service_port(given: wire.ServicePort) -> ServicePort:
    port, target = _number("port", given.port), given.target_port
    if not port:
        raise ValueError("port must be 1 to 65535, not 0")
    return ServicePort(
        name=_name(given.name),
        protocol=Protocol(given.protocol or Protocol.TCP),
        port=port,
        target_port=(_name(target) if isinstance(target, str) else _number("targetPort", target)) or port,
        node_port=_number("nodePort", given.node_port) or None,
    )


def _cluster_ips(spec: wire.ServiceSpec) -> tuple[IPAddress, ...]:
    if spec.cluster_ip == "None" or spec.type == ServiceType.EXTERNAL_NAME:
        return ()
    return addresses(text for text in spec.cluster_ips or [spec.cluster_ip] if text)


def _load_balancer_ips(status: wire.ServiceStatus | None) -> tuple[IPAddress, ...]:
    """Addresses that packets keep on their way to the node; with ipMode Proxy they do not (KEP-1860)."""
    balancer = status and status.load_balancer
    ingress = (balancer and balancer.ingress) or ()
    return addresses(entry.ip for entry in ingress if entry.ip and entry.ip_mode in (None, "", "VIP"))


def _affinity_timeout_s(spec: wire.ServiceSpec) -> int | None:
    if spec.session_affinity != "ClientIP":
        return None
    config = spec.session_affinity_config
    client_ip = config and config.client_ip
    timeout_s = (client_ip and client_ip.timeout_seconds) or _DEFAULT_AFFINITY_S
    if not 0 < timeout_s <= _LONGEST_AFFINITY_S:
        raise ValueError(f"clientIP.timeoutSeconds must be 1 to {_LONGEST_AFFINITY_S}, not {timeout_s}")
    return timeout_s


def endpoint_slice(given: wire.EndpointSlice) -> EndpointSlice | None:
    """A slice; None when it belongs to no Service, or has host names, which kube-proxy ignores too.

    Raises ValueError.
    """
    metadata = given.metadata
    name = (metadata.labels or {}).get(_SERVICE_LABEL)
    if not name or given.address_type not in _FAMILIES:
        return None
    return EndpointSlice(
        key=_key(metadata),
        service=NamespacedName(metadata.namespace, _name(name)),
        ports=tuple(_port(port) for port in given.ports or () if port.port),
        endpoints=tuple(
            [_endpoint(entry, entry.addresses[0]) for entry in given.endpoints or () if entry.addresses]
        ),
        triggered_at_s=_triggered_at_s(metadata.annotations),
    )


def _port(given: wire.EndpointPort) -> SlicePort:
    port = _number("port", given.port)
    return _slice_port(_name(given.name or ""), Protocol(given.protocol or Protocol.TCP), port)


def _endpoint(given: wire.Endpoint, address: str) -> Endpoint:
    """Only the first address counts: the API gives no meaning to further ones (KEP-752)."""
    conditions, hints, node = given.conditions or _UNKNOWN, given.hints, given.node_name
    return Endpoint(
        parse_endpoint(address),
        conditions.ready is not False,
        conditions.serving is not False,
        conditions.terminating is True,
        intern(_name(node)) if node else None,
        _name(given.hostname) if given.hostname else "",
        _hinted(hints.for_nodes) if hints is not None else _NOBODY,
        _hinted(hints.for_zones) if hints is not None else _NOBODY,
    )


def _hinted(hints: list[wire.Named] | None) -> frozenset[str]:
    return _names(tuple([hint.name for hint in hints])) if hints else _NOBODY


def _triggered_at_s(annotations: Mapping[str, str] | None) -> float | None:
    text = (annotations or {}).get(_TRIGGER_TIME)
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except (ValueError, OverflowError):
        return None  # the controller's own business; only a measurement is lost


def node(given: wire.Node) -> Node:
    """A node. Raises ValueError."""
    metadata = given.metadata
    spec, status = given.spec or wire.NodeSpec(), given.status or wire.NodeStatus()
    wanted = ("InternalIP", "ExternalIP")
    taints = {taint.key for taint in spec.taints or ()}
    return Node(
        name=_key(metadata).name,
        zone=(metadata.labels or {}).get(_ZONE_LABEL) or None,
        addresses=addresses(
            entry.address for kind in wanted for entry in status.addresses or () if entry.type == kind
        ),
        pod_cidrs=networks(spec.pod_cidrs or filter(None, [spec.pod_cidr])),
        leaving=metadata.deletion_timestamp is not None or _AUTOSCALER_TAINT in taints,
    )
