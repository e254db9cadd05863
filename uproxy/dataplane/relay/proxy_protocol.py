"""The PROXY protocol, version 2: an endpoint is told who its client is, ahead of the client's first byte.

Section 2.2 of the specification (haproxy.org, doc/proxy-protocol.txt). Where the client is not known the
command is LOCAL, and the endpoint takes the connection for the proxy's own, which it has to accept.
"""

import socket
import struct
from ipaddress import ip_address

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_LOCAL, _PROXY = 0x20, 0x21  # version 2, and the command
_TCP_OVER = {4: 0x11, 16: 0x21}  # by the length of an address

LOCAL = _SIGNATURE + struct.pack("!BBH", _LOCAL, 0, 0)


def header_for(client: socket.socket, destination: bytes | None) -> bytes:
    """The header for an accepted client, which was on its way to `destination`: port and address in network
    order, or None where the socket has it."""
    try:
        source = _packed(client.getpeername())
        target = destination or _packed(client.getsockname())
    except OSError:
        return LOCAL  # it is gone already
    return header(source, target)


def header(source: bytes, target: bytes) -> bytes:
    """The header for a connection over TCP; both are port and address, in network order."""
    addresses = source[2:] + target[2:] + source[:2] + target[:2]
    family = _TCP_OVER[len(source) - 2]
    return _SIGNATURE + struct.pack("!BBH", _PROXY, family, len(addresses)) + addresses


def _packed(address: tuple[str, int]) -> bytes:
    return struct.pack("!H", address[1]) + ip_address(address[0]).packed
