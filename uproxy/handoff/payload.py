"""What the kernel counts, as the relay would. Pure.

Owns what is taken off for headers: the kernel counts whole packets. With TCP timestamps, which almost
everybody has; acknowledgements with SACK blocks make the counts a little too high.
"""

from uproxy.handoff.mechanism import Counts
from uproxy.model.names import Protocol

_HEADERS = {(4, Protocol.TCP): 52, (6, Protocol.TCP): 72, (4, Protocol.UDP): 28, (6, Protocol.UDP): 48}
"""Bytes of each packet."""
_SYN_MORE = 8
"""The options of the first segment each way take so much more."""


def payload(family: int, protocol: Protocol, packets: int, size: int) -> int:
    """Bytes in so many packets; of TCP, without what first segments have more."""
    return max(0, size - packets * _HEADERS[family, protocol])


def counts(protocol: Protocol, connections: int, to_backend: int, to_client: int) -> Counts:
    """Counts from sums of `payload`."""
    more = connections * _SYN_MORE if protocol is Protocol.TCP else 0
    return Counts(connections, max(0, to_backend - more), max(0, to_client - more))
