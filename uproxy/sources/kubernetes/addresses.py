"""Addresses and networks as an API server may have stored them long ago.

Go's parser once read leading zeros as decimal (010.0.0.1 is 10.0.0.1) and IPv4-mapped IPv6 addresses as
IPv4. Objects from then are still valid (KEP-4858), kube-proxy reads them so, and so does this.
"""

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from socket import AF_INET, inet_pton

from uproxy.model.names import IPAddress, IPNetwork
from uproxy.model.special import special

_LEADING_ZEROS = re.compile(r"\b0+(?=\d)")


def parse_address(text: str) -> IPAddress:
    """One address. Raises ValueError.

    Slices are sent whole, and a cluster may have a hundred thousand endpoints: the usual case is left
    to C, which is four times as fast as `ip_address` and no less strict.
    """
    try:
        return IPv4Address(int.from_bytes(inet_pton(AF_INET, text), "big"))
    except (OSError, ValueError):
        return _unusual_address(text)


def _unusual_address(text: str) -> IPAddress:
    try:
        address = ip_address(text)
    except ValueError:
        address = ip_address(_LEADING_ZEROS.sub("", text))
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            raise ValueError(f"{text!r} has a zone, which means something on one node only")
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
    return address


def parse_endpoint(text: str) -> IPAddress:
    """The address of an endpoint. Raises ValueError, also for one that cannot be (see `special`)."""
    address = parse_address(text)
    if kind := special(address):
        raise ValueError(f"{text!r} cannot be an endpoint: it is a {kind} address")
    return address


def addresses(texts: Iterable[str]) -> tuple[IPAddress, ...]:
    """Each address once, in their order. Raises ValueError."""
    return tuple(dict.fromkeys(parse_address(text) for text in texts))


def networks(texts: Iterable[str]) -> tuple[IPNetwork, ...]:
    """Each network once; spaces around it do not matter. Raises ValueError."""
    return tuple(dict.fromkeys(_network(text.strip()) for text in texts))


def _network(text: str) -> IPNetwork:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return ip_network(_LEADING_ZEROS.sub("", text), strict=False)
