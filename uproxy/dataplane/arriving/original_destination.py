"""Where a connection was going before the kernel redirected it to us.

SO_ORIGINAL_DST (netfilter): option 80 of SOL_IP and of IPPROTO_IPV6; TCP only.
"""

import socket
import struct

from uproxy.model.names import Family

_SO_ORIGINAL_DST = 80
_IPV6_FLOW = 4


def original_destination(client: socket.socket, family: Family) -> bytes | None:
    """Port and address, in network order: 2 + 4 or 2 + 16 bytes.

    None when the kernel has no record, as for a connection that was not redirected and
    not tracked either. A tracked one that was not redirected yields our own address.
    """
    try:
        if family == 4:
            return client.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, 16)[2:8]
        sockaddr = client.getsockopt(socket.IPPROTO_IPV6, _SO_ORIGINAL_DST, 28)
    except OSError:
        return None
    port, address = struct.unpack_from(f"2x2s{_IPV6_FLOW}x16s", sockaddr)
    return bytes(port + address)
