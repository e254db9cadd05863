"""Pod records, `1-2-3-4.NAMESPACE.pod.DOMAIN`, and which namespace an address belongs to.

Pure. The records are not in Kubernetes' DNS specification any more; CoreDNS has them in three
modes, and so are they here. Addresses are those of the endpoints and Pods that are known.
"""

from enum import StrEnum
from ipaddress import IPv6Address, ip_address

from uproxy.model.endpoint import EndpointSlice, Origin, Pod
from uproxy.model.names import IPAddress


class PodMode(StrEnum):
    """Which pod records there are (CoreDNS: `pods`)."""

    DISABLED = "disabled"
    """None."""
    INSECURE = "insecure"
    """Any address, in every namespace that is known."""
    VERIFIED = "verified"
    """Addresses that an endpoint or Pod of that namespace has."""


def pod_address(label: bytes) -> IPAddress | None:
    """The address in a pod record's first label: `10-244-0-1`, `fd00--1`."""
    try:
        text = label.decode("ascii")
        four = text.count("-") == 3 and "--" not in text
        ip = ip_address(text.replace("-", "." if four else ":"))
    except ValueError:
        return None
    return None if isinstance(ip, IPv6Address) and ip.scope_id is not None else ip


class PodAddresses:
    """The namespaces of each address, once for every object that says so."""

    def __init__(self) -> None:
        self._namespaces: dict[int, tuple[str, ...]] = {}

    def has(self, ip: IPAddress, namespace: str) -> bool:
        """Whether an endpoint or Pod of `namespace` has this address."""
        return namespace in self._namespaces.get(address_number(ip), ())

    def namespace_of(self, ip: IPAddress) -> str | None:
        """The namespace of an address; None when it is unknown, or in several: a node's."""
        found = set(self._namespaces.get(address_number(ip), ()))
        return found.pop() if len(found) == 1 else None

    def replace(
        self, namespace: str, before: EndpointSlice | Pod | None, now: EndpointSlice | Pod | None
    ) -> None:
        """One object's addresses were those of `before`, and are those of `now`."""
        gone, come = _numbers(before), _numbers(now)
        for number in come - gone:
            self._namespaces[number] = (*self._namespaces.get(number, ()), namespace)
        for number in gone - come:
            left = list(self._namespaces[number])
            left.remove(namespace)
            if left:
                self._namespaces[number] = tuple(left)
            else:
                del self._namespaces[number]


def _numbers(thing: EndpointSlice | Pod | None) -> set[int]:
    """An object's addresses; those of `--endpoint` are no pods."""
    if isinstance(thing, Pod):
        return {address_number(ip) for ip in thing.ips}
    if thing is None or thing.origin is Origin.FLAG:
        return set()
    return {
        address_number(endpoint.host) for endpoint in thing.endpoints if not isinstance(endpoint.host, str)
    }


def address_number(ip: IPAddress) -> int:
    """An address as a number: as quick to hash as the address itself is slow."""
    return int(ip) if ip.version == 4 else int(ip) | 1 << 128
