"""Addresses that are no host's in particular, and so neither an endpoint's nor a Service's.

This proxy dials from the node's own network, where a loopback address leads to the node's own programs
and a link-local one to a cloud's (169.254.169.254 hands out a node's credentials). An API server refuses
them, too (ValidateNonSpecialIP); here nobody else's checks are relied on.
"""

from ipaddress import IPv4Address, IPv6Address

from uproxy.model.names import IPAddress

_BROADCAST = IPv4Address("255.255.255.255")


def special(address: IPAddress, *, loopback: bool = False) -> str:
    """What kind of special address this is, in words; empty for a host's own. `loopback` takes those for
    a host's, as for manifests on the machine itself: whoever writes them could as well connect.
    """
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_unspecified:
        return "unspecified"
    if address.is_loopback:
        return "" if loopback else "loopback"
    if address.is_link_local:
        return "link-local"
    return "multicast" if address.is_multicast or address == _BROADCAST else ""
