"""Records as pycares gives them, back into records as they go out.

Pure. c-ares reads what upstream answers; of the types that it cannot write as text here, and
those that it does not know, nothing is passed on.
"""

import struct
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from uproxy.dns.wire import Malformed, Record, Type, from_text, srv_data, txt_data

if TYPE_CHECKING:
    from pycares import DNSResult

QUERY_TYPES: Mapping[int, str] = {
    kind: kind.name
    for kind in (
        Type.A,
        Type.NS,
        Type.CNAME,
        Type.SOA,
        Type.PTR,
        Type.MX,
        Type.TXT,
        Type.AAAA,
        Type.SRV,
        Type.NAPTR,
        Type.ANY,
        Type.CAA,
    )
}
"""What can be asked for."""


def records_of(result: "DNSResult") -> tuple[Record, ...]:
    """The answers, aliases first as they came; one that cannot be written is left out."""
    found = []
    for record in result.answer:
        write = _WRITERS.get(record.type)
        if write is None:
            continue
        try:
            found.append(Record(from_text(record.name), record.type, record.ttl, write(record.data)))
        except (Malformed, ValueError, struct.error):
            continue
    return tuple(found)


def _octets(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")


def _string(text: str | bytes) -> bytes:
    octets = _octets(text)[:255]
    return bytes((len(octets),)) + octets


def _soa(data: Any) -> bytes:  # noqa: ANN401  pycares has a class for each type
    fixed = struct.pack("!IIIII", data.serial, data.refresh, data.retry, data.expire, data.minimum)
    return from_text(data.mname) + from_text(data.rname) + fixed


def _naptr(data: Any) -> bytes:  # noqa: ANN401
    texts = _string(data.flags) + _string(data.service) + _string(data.regexp)
    return struct.pack("!HH", data.order, data.preference) + texts + from_text(data.replacement)


_WRITERS: Mapping[int, Callable[[Any], bytes]] = {
    Type.A: lambda data: ip_address(data.addr).packed,
    Type.AAAA: lambda data: ip_address(data.addr).packed,
    Type.NS: lambda data: from_text(data.nsdname),
    Type.CNAME: lambda data: from_text(data.cname),
    Type.PTR: lambda data: from_text(data.dname),
    Type.SOA: _soa,
    Type.MX: lambda data: struct.pack("!H", data.priority) + from_text(data.exchange),
    Type.TXT: lambda data: txt_data(_octets(data.data)),
    Type.SRV: lambda data: srv_data(data.priority, data.weight, data.port, from_text(data.target)),
    Type.NAPTR: _naptr,
    Type.CAA: lambda data: bytes((data.critical,)) + _string(data.tag) + _octets(data.value),
}
