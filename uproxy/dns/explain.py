"""What `uproxy resolve NAME` prints: the answer to each type of question, and the object that it comes from.

Pure. Owns the words; what the answer is, is the zone's.
"""

import struct
from collections.abc import Iterable
from ipaddress import ip_address

from uproxy.dns.follow import End, Walk, follow
from uproxy.dns.search import search_path
from uproxy.dns.service_records import reverse_name
from uproxy.dns.wire import ROOT, Malformed, Record, Type, ends_with, from_text, join, labels_of, to_text
from uproxy.dns.zone import Zone
from uproxy.errors import UproxyError
from uproxy.model.names import NamespacedName

_TYPES = (Type.A, Type.AAAA, Type.SRV, Type.PTR, Type.TXT, Type.NS, Type.SOA)
_NDOTS = 5


def explain(zone: Zone, text: str, namespace: str = "default") -> list[str]:
    """Lines about a name, an address, or a name to be searched for as a pod of `namespace` does.

    Raises UproxyError when `text` is neither.
    """
    missed: list[str] = []
    for name in _candidates(zone, text, namespace):
        walks = {kind: follow(zone, name, kind) for kind in _TYPES}
        if walks[Type.A].end is End.OUTSIDE and not walks[Type.A].chain:
            return [*missed, *_about(zone, name, walks)]
        if any(walk.end is not End.NXDOMAIN or walk.chain for walk in walks.values()):
            return _about(zone, name, walks)
        missed.append(f"{to_text(name)} NXDOMAIN: {_why(zone, name)}")
    return missed


def _candidates(zone: Zone, text: str, namespace: str) -> list[bytes]:
    """The names that a resolver would try, in order (resolv.conf(5), ndots:5)."""
    try:
        return [reverse_name(ip_address(text))]
    except ValueError:
        pass
    try:
        name = from_text(text.lower())
    except Malformed as error:
        raise UproxyError(f"{text!r} is no name: {error}") from error
    if text.endswith(".") or ends_with(name, zone.domain):
        return [name]
    path = search_path(namespace, zone.domain, ())
    searched = [name[:-1] + element for element in path if len(name[:-1] + element) <= 255]
    return [*searched, name] if text.count(".") < _NDOTS else [name, *searched]


def _about(zone: Zone, name: bytes, walks: dict[Type, Walk]) -> list[str]:
    lines: dict[str, None] = {}
    for kind, walk in walks.items():
        for record in walk.chain:
            lines[_line(zone, record)] = None
        if walk.found is not None:
            lines.update(dict.fromkeys(_line(zone, r) for r in _sorted(zone.records(walk.found, walk.name))))
        elif walk.end is End.OUTSIDE:
            lines[f"{to_text(walk.name)} is no name of the cluster: upstream is asked"] = None
        elif walk.end is End.LOOP:
            lines[f"{to_text(walk.name)} SERVFAIL: ExternalNames lead in a circle"] = None
        elif walk.end is End.NXDOMAIN and walk.chain and kind is Type.A:
            lines[f"{to_text(walk.name)} NXDOMAIN: {_why(zone, walk.name)}"] = None
    return list(lines) or [f"{to_text(name)} exists, without any record"]


def _sorted(records: Iterable[Record]) -> list[Record]:
    return sorted(records, key=lambda record: record.data)


def _line(zone: Zone, record: Record) -> str:
    kind = Type(record.type)
    text = f"{to_text(record.owner)} {record.ttl_s} IN {kind.name} {_data_text(kind, record.data)}"
    return f"{text}  ; {_origin(zone, record)}"


def _data_text(kind: Type, data: bytes) -> str:
    match kind:
        case Type.A | Type.AAAA:
            return str(ip_address(data))
        case Type.SRV:
            return "{} {} {} {}".format(*struct.unpack("!HHH", data[:6]), to_text(data[6:]))
        case Type.TXT:
            return f'"{data[1:].decode("utf-8", "replace")}"'
        case Type.SOA:
            primary = len(join(*labels_of(data)))
            mailbox = primary + len(join(*labels_of(data[primary:])))
            numbers = struct.unpack("!IIIII", data[mailbox:])
            return " ".join((to_text(data), to_text(data[primary:]), *map(str, numbers)))
        case _:
            return to_text(data)


def _origin(zone: Zone, record: Record) -> str:
    """The object that a record comes from."""
    if record.type == Type.PTR:
        keys = zone.services_behind(record.owner)
    else:
        key = _service_of(zone, record.owner)
        keys = [key] if key is not None else []
    for key in keys:
        for entry in zone.entries(key):
            if (entry.owner, entry.type, entry.data) == (record.owner, record.type, record.data):
                return f"Service {key}, {entry.source}"
    if ends_with(record.owner, join(b"pod", base=zone.domain)):
        return f"the address in the name, pod records are {zone.pod_mode}"
    return "uproxy"


def _service_of(zone: Zone, name: bytes) -> NamespacedName | None:
    if not ends_with(name, join(b"svc", base=zone.domain)):
        return None
    labels = labels_of(name[: len(name) - len(zone.domain)] + ROOT)
    if len(labels) < 3:
        return None
    return NamespacedName(labels[-2].decode("utf-8", "replace"), labels[-3].decode("utf-8", "replace"))


def _why(zone: Zone, name: bytes) -> str:
    """Why there is no such name."""
    if ends_with(name, join(b"pod", base=zone.domain)):
        return f"pod records are {zone.pod_mode}, and this is none"
    key = _service_of(zone, name)
    if key is None:
        return "no name of this form exists"
    parts = zone.objects.parts(key)
    if parts is None:
        return f"there is no Service {key}"
    if name in zone.names or len(labels_of(name)) > len(labels_of(zone.domain)) + 3:
        return f"Service {key} has nothing of this name"
    if parts.service.headless:
        ready = "" if parts.service.publish_not_ready_addresses else " ready"
        return f"headless Service {key} has no{ready} endpoint"
    return f"Service {key} has no address"
