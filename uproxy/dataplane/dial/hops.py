"""How far a connection may still go: what its client's packets said, less one.

A packet that goes in circles dies of its hop limit. A connection that is relayed would not, since each dial
begins with a new one: two Services that name each other as endpoints, on two nodes that know nothing of each
other, would go on until the last descriptor. So what is dialled may go one hop less far than what came.
"""

import socket
from contextlib import suppress

_TCP_SAVE_SYN, _TCP_SAVED_SYN = 27, 28
_SYN_BYTES = 128  # an IP header and a TCP header
_IP_RECVTTL = 12


def save_syn(listener: socket.socket) -> None:
    """Have the kernel keep the SYN of who connects, until it is asked for (tcp(7))."""
    with suppress(OSError):  # not every kernel can (gVisor)
        listener.setsockopt(socket.IPPROTO_TCP, _TCP_SAVE_SYN, 1)


def hops_of(client: socket.socket) -> int:
    """The hop limit that an accepted client's SYN came with; 0 when it is not known. Can be asked once."""
    try:
        syn = client.getsockopt(socket.IPPROTO_TCP, _TCP_SAVED_SYN, _SYN_BYTES)
    except OSError:
        return 0
    if len(syn) < 20:
        return 0
    return syn[8] if syn[0] >> 4 == 4 else syn[7]


def report_hops(server: socket.socket) -> None:
    """Have datagrams come with their hop limit."""
    with suppress(OSError):
        if server.family == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        else:
            server.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)


def limit_hops(sock: socket.socket, hops: int) -> None:
    """Send no farther than one hop less than `hops`, which is 2 at least, or 0 for as far as usual.

    Raises OSError."""
    if not hops:
        return
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hops - 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops - 1)
