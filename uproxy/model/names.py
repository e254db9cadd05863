"""Names: of objects, of Service ports, and of addresses on the wire."""

from collections.abc import Mapping
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal, NamedTuple

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network
Family = Literal[4, 6]
ADDRESS_FAMILY: Mapping[Family, int] = {4: 2, 6: 10}
"""AF_INET and AF_INET6, as Linux numbers them."""


class Protocol(StrEnum):
    """A Service port's transport protocol. SCTP is understood, but not relayed."""

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"


class NamespacedName(NamedTuple):
    """The key of an object; prints as `namespace/name`. A Node's namespace is empty."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class ServicePortName(NamedTuple):
    """One port of one Service; `port` is the port's name, empty when it has none."""

    namespace: str
    name: str
    port: str
    protocol: Protocol

    def __str__(self) -> str:
        port = f":{self.port}" if self.port else ""
        return f"{self.namespace}/{self.name}{port}/{self.protocol}"

    @property
    def service(self) -> NamespacedName:
        """The Service that the port belongs to."""
        return NamespacedName(self.namespace, self.name)


class Vip(NamedTuple):
    """An address that clients connect to: the key of everything on the wire.

    A NodePort has the unspecified address (0.0.0.0 or ::), which stands for every
    address of the node.
    """

    ip: IPAddress
    port: int
    protocol: Protocol

    def __str__(self) -> str:
        return f"{address_text(self.ip, self.port)}/{self.protocol}"

    @property
    def family(self) -> Family:
        """4 or 6."""
        return self.ip.version

    @property
    def is_node_port(self) -> bool:
        """Whether this stands for a port on every address of the node."""
        return self.ip.is_unspecified


def address_text(ip: IPAddress | str, port: int) -> str:
    """`10.0.0.1:80` or `[fd00::1]:80`."""
    text = str(ip)
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"
