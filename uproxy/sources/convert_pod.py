"""The rules for Pod (v1): an endpoint of the Services whose selector matches it.

They follow the endpoint controller: a Pod is ready when its Ready condition is True, and one
that has run to its end (Succeeded, Failed) is no endpoint.
"""

from uproxy.model.endpoint import ContainerPort, Pod
from uproxy.model.names import IPAddress, NamespacedName, Protocol
from uproxy.sources.convert_service import PROTOCOLS
from uproxy.sources.cursor import Cursor

_ENDED = ("Succeeded", "Failed")


def pod(root: Cursor, key: NamespacedName) -> tuple[Pod] | None:
    """A Pod; None when it has no address, or has ended."""
    status = root.at("status")
    ips = _ips(status)
    labels = root.at("metadata", "labels").texts()
    ports = _ports(root.at("spec"))
    is_ready = _is_ready(status)
    if not ips or status.at("phase").text() in _ENDED:
        return None
    terminating = root.at("metadata", "deletionTimestamp").value is not None
    node = root.at("spec", "nodeName").subdomain() or None
    return (Pod(key, labels, ips, ports, is_ready, terminating, node),)


def _ips(status: Cursor) -> tuple[IPAddress, ...]:
    fields = [item.at("ip") for item in status.at("podIPs").items()] or [status.at("podIP")]
    read = [field.endpoint() for field in fields]
    return tuple(dict.fromkeys(address for address in read if address))


def _is_ready(status: Cursor) -> bool:
    conditions = status.at("conditions").items()
    states = {item.at("type").text(): item.at("status").text() for item in conditions}
    return states.get("Ready") == "True"


def _ports(spec: Cursor) -> tuple[ContainerPort, ...]:
    """The named ports: only they can be meant by a Service's targetPort.

    Those of init containers count when they run on as sidecars (KEP-753).
    """
    sidecars = [c for c in spec.at("initContainers").items() if c.at("restartPolicy").text() == "Always"]
    containers = [*spec.at("containers").items(), *sidecars]
    ports = [_port(item) for container in containers for item in container.at("ports").items()]
    return tuple(port for port in ports if port.name)


def _port(item: Cursor) -> ContainerPort:
    return ContainerPort(
        name=item.at("name").port_name(),
        protocol=item.at("protocol").choice(PROTOCOLS, Protocol.TCP),
        port=item.at("containerPort").required().port(),
    )
