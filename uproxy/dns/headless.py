"""The names of one headless Service, kept by endpoint: a change makes only the changed endpoints' anew.

Pure. Owns which of its names a change touches. Which records there are is `service_records`' business;
here they are remembered, because there may be a thousand endpoints.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from uproxy.dns.answers import MOST_WITH_ADDRESSES, Sets
from uproxy.dns.objects import Parts
from uproxy.dns.pods import address_number
from uproxy.dns.service_records import (
    Target,
    address_type,
    endpoint_name,
    has_name,
    reverse_name,
    served_ports,
    srv_sets,
    way_to,
)
from uproxy.dns.wire import Type, encode_asked, srv_data
from uproxy.model.endpoint import Endpoint
from uproxy.model.names import IPAddress


class Difference(NamedTuple):
    """What is to be put in the place of what."""

    names: Mapping[bytes, Sets]
    """Whole names; without records it only lies on the way to another."""
    siblings: Mapping[bytes, Sets]
    """Addresses of the names that SRV records of `names` lead to."""
    pointers: Mapping[bytes, list[bytes]]
    """What reverse names lead to; to nothing, when they are none of the Service's any more."""
    gone: Iterable[bytes]
    """Names that are no more."""


class _Known:
    """One endpoint's name and address, as they stand in records."""

    __slots__ = ("record", "reverse", "target", "type")

    def __init__(self, ip: IPAddress, target: bytes, ttl_s: int) -> None:
        self.target = target
        self.type = address_type(ip)
        self.record = encode_asked(self.type, ttl_s, ip.packed)
        self.reverse = reverse_name(ip)


_Identity = tuple[int, str]
"""The address and hostname of an endpoint: all that its names are made from."""


class HeadlessNames:
    """Follows the Service whose name is `own`."""

    def __init__(self, own: bytes, ttl_s: int) -> None:
        self._own = own
        self._ttl_s = ttl_s
        self._known: dict[_Identity, _Known] = {}
        self._srv: dict[tuple[int, int, bytes], bytes] = {}
        """Encoded SRV records by weight, port number and target."""
        self._shared: set[bytes] = set()
        """The names that all endpoints have a part in: the Service's, and its ports'."""

    def owners(self) -> set[bytes]:
        """All of its names, and the reverse names that lead to them."""
        found = set(self._shared)
        for known in self._known.values():
            found |= {known.target, known.reverse}
        return found

    def change(self, parts: Parts) -> Difference:
        """Take the Service as it is now."""
        before, targets = set(self._known.values()), self._take(parts)
        touched = before.symmetric_difference(self._known.values())
        shared, leads_to = self._shared_names(targets)
        alone = ({known.target for known in touched} | self._shared) - shared.keys()
        addresses = self._addresses(alone | leads_to | shared.keys())
        for owner, sets in shared.items():
            sets.update(addresses.get(owner, {}))
        names = shared | {owner: addresses[owner] for owner in alone & addresses.keys()}
        self._shared = set(shared)
        pointers = self._pointers({known.reverse for known in touched})
        return Difference(names, addresses, pointers, alone - addresses.keys())

    def _take(self, parts: Parts) -> list[Target]:
        """Remember the endpoints that have names, and say who serves what."""
        known: dict[_Identity, _Known] = {}
        targets: list[Target] = []
        for piece in parts.slices:
            ports = served_ports(piece)
            for endpoint in piece.endpoints:
                if not has_name(parts.service, endpoint) or isinstance(endpoint.host, str):
                    continue
                identity = address_number(endpoint.host), endpoint.hostname
                one = known.get(identity) or self._known.get(identity) or self._meet(endpoint)
                if one is not None:
                    known[identity] = one
                    targets += [(port, one.target, "") for port in ports]
        self._known = known
        return targets

    def _meet(self, endpoint: Endpoint) -> _Known | None:
        target = endpoint_name(endpoint, self._own)
        if target is None or isinstance(endpoint.host, str):
            return None
        return _Known(endpoint.host, target, self._ttl_s)

    def _shared_names(self, targets: list[Target]) -> tuple[dict[bytes, Sets], set[bytes]]:
        """The names of the Service and its ports; and which targets' addresses are wanted beside them."""
        shared: dict[bytes, Sets] = {}
        if self._known:
            shared[self._own] = _merged(self._known.values())
        encoded: dict[tuple[int, int, bytes], bytes] = {}
        leads_to: set[bytes] = set()
        for owner, weight, members in srv_sets(targets, self._own):
            for number, target in members:
                key = weight, number, target
                encoded[key] = encoded.get(key) or self._srv.get(key) or self._encode_srv(*key)
            records = [encoded[weight, number, target] for number, target in members]
            shared.setdefault(owner, {})[Type.SRV] = records
            if owner != self._own:
                shared.setdefault(way_to(owner), {})
            if len(members) <= MOST_WITH_ADDRESSES:
                leads_to |= {target for _, target in members}
        self._srv = encoded
        return shared, leads_to

    def _encode_srv(self, weight: int, number: int, target: bytes) -> bytes:
        return encode_asked(Type.SRV, self._ttl_s, srv_data(0, weight, number, target))

    def _addresses(self, owners: set[bytes]) -> dict[bytes, Sets]:
        """The addresses of those endpoints' names among `owners` that exist."""
        found: defaultdict[bytes, list[_Known]] = defaultdict(list)
        for known in self._known.values():
            if known.target in owners:
                found[known.target].append(known)
        return {owner: _merged(those) for owner, those in found.items()}

    def _pointers(self, reverse: set[bytes]) -> dict[bytes, list[bytes]]:
        found: dict[bytes, list[bytes]] = {owner: [] for owner in reverse}
        for known in self._known.values():
            if known.reverse in reverse:
                found[known.reverse].append(known.target)
        return found


def _merged(those: Iterable[_Known]) -> Sets:
    """The addresses of several endpoints as one name's; each once."""
    sets: Sets = {}
    for record, kind in {known.record: known.type for known in those}.items():
        sets.setdefault(kind, []).append(record)
    return sets
