"""Where an endpoint may see the client's own address: where its answers pass through this node.

Owns asking the kernel's routes (rtnetlink(7)). Refuses to guess in favour: a connection whose
answers go another way never comes about, and looks as if the endpoint were dead.

Answers pass here when the endpoint or the client is on this node, and the other is not on the same
link: two Pods of one bridge would answer each other directly, unless their frames are lifted off it
(`steering/bridges.py`). On this node is what its own route
leads to, without a gateway, on a device other than the default route's.
"""

import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from uproxy.kernel.netlink import HEADER, REQUEST, attribute, attributes, message
from uproxy.model.names import ADDRESS_FAMILY, Family

DOUBT_LASTS_S = 300.0
"""How long an endpoint is dialled from the node's address that did not answer a client's."""
ROUTE_LASTS_S = 1.0
"""How long an answer of the kernel's holds. A dial that a changed route leads astray times out."""
_KNOWN_MAX = 65_536
_ELSEWHERE: dict[Family, str] = {4: "192.0.0.8", 6: "100::1"}
"""Addresses that nobody has (RFC 7600, RFC 6666): what leads to them is the default route."""

_NEW_ROUTE, _GET_ROUTE, _FIB_MATCH = 24, 26, 0x2000
_DST, _OIF, _GATEWAY, _VIA = 1, 4, 5, 18
_UNICAST = 1
_ROUTE = struct.Struct("=8BI")


class Way(NamedTuple):
    """How this node reaches an address: the device's index, and whether that is a link of its own."""

    device: int
    near: bool


_NOWHERE = Way(0, near=False)


class WaysBack:
    """The routes of this node, as far as they were asked for."""

    def __init__(self, now: Callable[[], float], lifts: Callable[[int, Family], bool]) -> None:
        """`lifts` tells of which bridges answers come here, by the index of the device.

        Raises OSError when the kernel has no rtnetlink.
        """
        self._now = now
        self._lifts = lifts
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC)
        self._netlink.bind((0, 0))
        self._sequence = 0
        self._known: dict[str, tuple[float, Way | None]] = {}
        self._doubted: dict[str, float] = {}

    def close(self) -> None:
        """Ask no more."""
        self._netlink.close()

    def lead_here(self, client: str, endpoint: str) -> bool:
        """Whether what `endpoint` answers to `client` passes through this node."""
        if (":" in client) != (":" in endpoint) or client.startswith("fe80:"):
            return False  # a link-local address means nothing on other links
        if self._doubted and self._is_doubted(endpoint):
            return False
        to_client, to_endpoint = self._way(client), self._way(endpoint)
        if to_client is None or to_endpoint is None or client == endpoint:
            return False
        if to_client.device == to_endpoint.device:
            family: Family = 6 if ":" in client else 4
            return to_client.near and to_endpoint.near and self._lifts(to_client.device, family)
        return to_client.near or to_endpoint.near

    def doubt(self, endpoint: str) -> None:
        """A dial of `endpoint` from a client's own address timed out: perhaps the endpoint is gone,
        perhaps its answers did not come here after all."""
        if len(self._doubted) >= _KNOWN_MAX:
            self._doubted.clear()
        self._doubted[endpoint] = self._now() + DOUBT_LASTS_S

    def _is_doubted(self, endpoint: str) -> bool:
        until_s = self._doubted.get(endpoint)
        if until_s is not None and until_s <= self._now():
            del self._doubted[endpoint]
            until_s = None
        return until_s is not None

    def _way(self, address: str) -> Way | None:
        """None for this node's own addresses, and for those that nothing leads to."""
        now_s = self._now()
        until_s, way = self._known.get(address, (0.0, None))
        if until_s > now_s:
            return way
        if len(self._known) >= _KNOWN_MAX:
            self._known.clear()
        way = self._look_up(address)
        self._known[address] = (now_s + ROUTE_LASTS_S, way)
        return way

    def _look_up(self, address: str) -> Way | None:
        family: Family = 6 if ":" in address else 4
        with suppress(OSError):  # what cannot be asked for, is not known
            packed = socket.inet_pton(ADDRESS_FAMILY[family], address)
            way = parse_route(self._ask(family, packed))
            if way is None or not way.near or address == _ELSEWHERE[family]:
                return way
            default = self._way(_ELSEWHERE[family]) or _NOWHERE
            return way._replace(near=way.device != default.device)
        return None

    def _ask(self, family: Family, packed: bytes) -> bytes:
        route = _ROUTE.pack(ADDRESS_FAMILY[family], 8 * len(packed), 0, 0, 0, 0, 0, 0, _FIB_MATCH)
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        self._netlink.send(message(_GET_ROUTE, REQUEST, self._sequence, route + attribute(_DST, packed)))
        while True:  # what an earlier question left, after a failure, is passed over
            answer = self._netlink.recv(65536)
            if HEADER.unpack_from(answer)[3] == self._sequence:
                return answer


def parse_route(answer: bytes) -> Way | None:
    """The way in the kernel's answer to a RTM_GETROUTE that asked for the entry of the table. A default
    route is never near. None: the address is local, or out of reach."""
    size, kind, *_ = HEADER.unpack_from(answer)
    if kind != _NEW_ROUTE:
        return None
    _, prefix_length, _, _, _, _, _, route_type, _ = _ROUTE.unpack_from(answer, HEADER.size)
    if route_type != _UNICAST:
        return None
    found = dict(attributes(answer[HEADER.size + _ROUTE.size : size]))
    (device,) = struct.unpack("=I", found.get(_OIF, bytes(4)))
    direct = bool(device and prefix_length) and _GATEWAY not in found and _VIA not in found
    return Way(device, direct)
