"""Where captured connections land: addresses that this node always has, whatever its links have.

REDIRECT takes an address of the link by which a packet came, and drops the packet where there is none. So
connections are translated to these instead, which a local route makes the node's own. Nobody else uses them:
the first are of a block that IANA keeps for protocols and has given to none, the others of a prefix drawn by
chance (RFC 6890, 2.2.2, and IANA's registry of special-purpose addresses; RFC 4193, 3.2.2).

They are many, because the kernel draws one by client and destination (nf_nat_core.c, find_best_ips_proto):
one client's connections to two Services from one port mostly stay apart, and that port as it is.

Owns the addresses. Refuses to know who translates, or makes the route. docs/decisions/0012 has the reasons.
"""

from collections.abc import Mapping
from ipaddress import ip_network
from typing import NamedTuple

from uproxy.model.names import Family, IPAddress, IPNetwork


class Landing(NamedTuple):
    """The addresses of one family."""

    network: IPNetwork
    """What the local route has."""

    @property
    def first(self) -> IPAddress:
        """The first and the last that are used. Not the whole network, which nft 1.0.6 would list as a prefix
        with a port, and cannot read again."""
        return self.network[1]

    @property
    def last(self) -> IPAddress:
        """See `first`."""
        return self.network[-2]


LANDING: Mapping[Family, Landing] = {
    4: Landing(ip_network("192.0.0.192/26")),
    6: Landing(ip_network("fd6c:91d9:8e2d::/112")),
}
