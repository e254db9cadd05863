"""Who is answered, and how much.

Pure: `now_s` comes in. Owns that this is no open resolver, and no amplifier: a client's address
in a UDP query can be made up, so beyond a rate it is told to come by TCP, or nothing.
"""

from collections.abc import Iterable
from enum import Enum, auto
from ipaddress import ip_address, ip_network

from uproxy.model.names import IPAddress, IPNetwork

SERVED_NETWORKS: tuple[IPNetwork, ...] = tuple(
    map(
        ip_network,
        (
            "127.0.0.0/8",
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "100.64.0.0/10",  # carriers' networks (RFC 6598), which some clusters use for pods
            "169.254.0.0/16",
            "::1/128",
            "fc00::/7",
            "fe80::/10",
        ),
    )
)
ANSWERS_A_SECOND = 10_000
"""By UDP, to one IPv4 address or one IPv6 /64."""
_MOST_CLIENTS = 65_536
_SLIP = 2
"""Beyond the rate, one query in two is told to come by TCP, so that no honest client is lost."""


class Verdict(Enum):
    """What becomes of a query."""

    ANSWER = auto()
    REFUSE = auto()
    """Not from a network that is served."""
    SLIP = auto()
    """An empty answer with TC."""
    DROP = auto()


_EXEMPT, _REFUSED = "", "-"


class Gate:
    """Decides for every query, by where it comes from."""

    def __init__(self, networks: Iterable[IPNetwork] = (), answers_a_second: int = ANSWERS_A_SECOND) -> None:
        self._networks = (*SERVED_NETWORKS, *networks)
        self._most = answers_a_second
        self._second = 0
        self._buckets: dict[str, str] = {}
        """By client: who shares its rate, or that it has none, or is refused."""
        self._counts: dict[str, int] = {}
        """Queries in this second, by bucket."""

    def admit(self, client: str, now_s: float) -> Verdict:
        """Judge one query by UDP."""
        bucket = self._buckets.get(client)
        if bucket is None:
            bucket = self._meet(client)
        if bucket == _EXEMPT:
            return Verdict.ANSWER
        if bucket == _REFUSED:
            return Verdict.REFUSE
        if int(now_s) != self._second:
            self._second = int(now_s)
            self._counts.clear()
        count = self._counts[bucket] = self._counts.get(bucket, 0) + 1
        if count <= self._most:
            return Verdict.ANSWER
        return Verdict.SLIP if count % _SLIP else Verdict.DROP

    def serves(self, client: str) -> bool:
        """Whether a client of TCP is answered; its address is its own, so no rate is needed."""
        return (self._buckets.get(client) or self._meet(client)) != _REFUSED

    def _meet(self, client: str) -> str:
        if len(self._buckets) >= _MOST_CLIENTS:
            self._buckets.clear()
        bucket = self._buckets[client] = self._bucket(ip_address(client))
        return bucket

    def _bucket(self, ip: IPAddress) -> str:
        if ip.is_loopback:
            return _EXEMPT  # nothing from elsewhere can claim it: the kernel drops that
        if not any(ip in network for network in self._networks):
            return _REFUSED
        return str(ip) if ip.version == 4 else ip.packed[:8].hex()
