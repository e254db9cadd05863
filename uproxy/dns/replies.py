"""What other servers answer, read from the wire (RFC 1035 4, 3597 4).

Pure. Owns that a reply is one to the question asked, and that names in it are written out, since
records move into other messages. Records of every type are taken, known or not. Malformed is all
that is raised.
"""

import struct
from collections.abc import Mapping

from uproxy.dns.cache import Outcome
from uproxy.dns.wire import CLASS_IN, HEADER_BYTES, LONGEST_NAME, ROOT, Malformed, Rcode, Record, Type

_COUNTS = struct.Struct("!HHHH")
_RECORD = struct.Struct("!HHIH")
_QR, _TC = 0x80, 0x02
_LONGEST_TTL_S = 0x7FFFFFFF
_OPT_DO = b"\0\0\x29\x04\xd0\0\0\x80\0\0\0"
_NAMES_AT: Mapping[int, tuple[int, int]] = {
    Type.NS: (0, 1),
    Type.CNAME: (0, 1),
    Type.SOA: (0, 2),
    Type.PTR: (0, 1),
    Type.MX: (2, 1),
    17: (0, 2),  # RP
    18: (2, 1),  # AFSDB
    21: (2, 1),  # RT
    Type.SRV: (6, 1),
    36: (2, 1),  # KX
    39: (0, 1),  # DNAME
}
"""Where in RDATA names are that may be compressed, and how many; newer types have none (RFC 3597 4)."""


def question(number: int, name: bytes, kind: int, *, dnssec: bool, edns: bool = True) -> bytes:
    """A query for another server; with EDNS, so that answers of 1232 octets come by UDP."""
    opt = (_OPT_DO if dnssec else _OPT_DO[:7] + bytes(4)) if edns else b""
    asked = name + kind.to_bytes(2) + CLASS_IN.to_bytes(2)
    return b"".join((number.to_bytes(2), b"\1\0\0\1\0\0\0\0\0", bytes((edns,)), asked, opt))


def answers(asked: bytes, packet: bytes) -> bool:
    """Whether a packet is a reply to this query: number, question and all. A server that cannot read the
    query does not repeat the question, either."""
    if len(packet) == HEADER_BYTES and packet[:2] == asked[:2] and packet[2] & _QR:
        return knows_no_edns(packet)
    end = asked.index(0, HEADER_BYTES) + 5 if len(packet) >= HEADER_BYTES else 0
    same_question = packet[HEADER_BYTES:end].lower() == asked[HEADER_BYTES:end].lower()
    return bool(end) and packet[:2] == asked[:2] and packet[2] & _QR != 0 and same_question


def knows_no_edns(packet: bytes) -> bool:
    """Whether a reply is that of a server which knows nothing of EDNS (RFC 6891 7)."""
    return packet[3] & 0xF in (Rcode.FORMERR, Rcode.NOTIMP)


def truncated(packet: bytes) -> bool:
    """Whether the rest comes by TCP."""
    return packet[2] & _TC != 0


def read_reply(packet: bytes, *, whole: bool = True) -> Outcome:
    """Rcode, answers and authority of a reply that `answers`. What is neither yes nor no is SERVFAIL.
    Without `whole`, of the authority only the SOA that an absence comes with: who serves a name that there
    is is no part of the answer, and would make it longer than a client takes by UDP.

    Raises Malformed.
    """
    if packet[3] & 0xF not in (Rcode.NOERROR, Rcode.NXDOMAIN):
        return Outcome(Rcode.SERVFAIL)
    _, answer_count, authority_count, _ = _COUNTS.unpack_from(packet, 4)
    offset = packet.index(0, HEADER_BYTES) + 5
    sections: list[tuple[Record, ...]] = []
    for count in (answer_count, authority_count):
        records = []
        for _ in range(count):
            record, offset = _read_record(packet, offset)
            records += [record] if record is not None else []
        sections.append(tuple(records))
    answer, authority = sections
    if not whole:
        authority = tuple(each for each in authority if each.type == Type.SOA)
    return Outcome(Rcode(packet[3] & 0xF), answer, authority)


def _read_record(packet: bytes, offset: int) -> tuple[Record | None, int]:
    """The record at `offset`, None when it is of another class; and where the next one is."""
    owner, offset = _read_name(packet, offset)
    if len(packet) < offset + _RECORD.size:
        raise Malformed("a record is cut off")
    kind, its_class, ttl_s, length = _RECORD.unpack_from(packet, offset)
    offset += _RECORD.size
    end = offset + length
    if len(packet) < end:
        raise Malformed("a record is cut off")
    if its_class != CLASS_IN:
        return None, end
    ttl_s = ttl_s if ttl_s <= _LONGEST_TTL_S else 0  # RFC 2181 8
    return Record(owner, kind, ttl_s, _read_data(packet, kind, offset, end)), end


def _read_data(packet: bytes, kind: int, offset: int, end: int) -> bytes:
    """RDATA, its names written out."""
    before, count = _NAMES_AT.get(kind, (0, 0))
    pieces = [packet[offset : offset + before]]
    offset += before
    for _ in range(count):
        name, offset = _read_name(packet, offset)
        pieces.append(name)
    if offset > end:
        raise Malformed("a name reaches beyond its record")
    return b"".join((*pieces, packet[offset:end]))


def _read_name(packet: bytes, offset: int) -> tuple[bytes, int]:
    """The name at `offset`, and where what follows it is. Pointers may only lead back."""
    name, after, before = b"", 0, offset
    while True:
        if offset >= len(packet):
            raise Malformed("a name that does not end")
        length = packet[offset]
        if length >= 0xC0:
            after = after or offset + 2
            offset = int.from_bytes(packet[offset : offset + 2]) & 0x3FFF
            if offset >= before:
                raise Malformed("a pointer that does not lead back")
            before = offset
        elif length == 0:
            return name + ROOT, after or offset + 1
        elif length > 63 or len(name) + length + 2 > LONGEST_NAME:
            raise Malformed("a name that is too long")
        else:
            name += packet[offset : offset + 1 + length]
            offset += 1 + length
