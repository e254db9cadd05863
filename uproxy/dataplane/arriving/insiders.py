"""Which clients are inside: on this node, or in one of its Pods.

Traffic policies bind only the others (kube-proxy's short circuit for external addresses). Asked for
Services with a Local external policy, and for no others.
"""

import socket
from collections.abc import Sequence
from ipaddress import ip_address

from uproxy.model.names import IPNetwork

_ANY_PORT = 9


class Insiders:
    """Where the Pods of this node are, and what its own addresses are."""

    def __init__(self) -> None:
        self.networks: Sequence[IPNetwork] = ()

    def has(self, address: str) -> bool:
        """Whether a client at this address is inside."""
        ip = ip_address(address.partition("%")[0])
        return any(ip in network for network in self.networks) or _is_own(address)


def _is_own(address: str) -> bool:
    """Whether this machine has the address: from nowhere else would the kernel send to it from itself.

    Asking the kernel each time costs ten microseconds, and is right also after an address has moved.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, _ANY_PORT))
        except OSError:
            return False
        return str(probe.getsockname()[0]) == address.partition("%")[0]
