"""DNS on the wire: names, questions, resource records (RFC 1035, 2181, 6891, 3597).

Pure. Owns reading queries and writing records. A malformed packet raises Malformed and nothing
else. Names are bytes as on the wire, uncompressed; the case asked for is kept, and comparing is
the caller's business (`lower()` is safe: a length is at most 63, below every letter).
"""

import struct
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import NamedTuple

HEADER_BYTES = 12
LONGEST_LABEL = 63
LONGEST_NAME = 255
PLAIN_UDP_BYTES = 512
"""What a client without EDNS takes (RFC 1035 4.2.1)."""
CLASS_IN = 1
ROOT = b"\0"
_POINTER = 0xC000
_ASKED_NAME = (_POINTER | HEADER_BYTES).to_bytes(2)
_QUESTION = struct.Struct("!HH")
_RECORD = struct.Struct("!HHIH")
_COUNTS = struct.Struct("!HHHH")
_MOST_RECORDS = 2
"""In a query's additional section: OPT and a signature."""


class Type(IntEnum):
    """Record types that mean something here; every other one is just a number."""

    A = 1
    NS = 2
    CNAME = 5
    SOA = 6
    PTR = 12
    MX = 15
    TXT = 16
    AAAA = 28
    SRV = 33
    NAPTR = 35
    OPT = 41
    TLSA = 52
    HTTPS = 65
    IXFR = 251
    AXFR = 252
    ANY = 255
    URI = 256
    CAA = 257


class Rcode(IntEnum):
    """How a query ended (RFC 1035 4.1.1, RFC 6891 9)."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    BADVERS = 16


class Malformed(ValueError):
    """These bytes are not a query that can be answered; `words` say why."""


class Edns(NamedTuple):
    """A query's OPT record (RFC 6891)."""

    size: int
    """The largest UDP answer that the client takes, in bytes; never below 512."""
    version: int
    do: bool
    """DNSSEC OK: echoed, never acted upon."""


class Query(NamedTuple):
    """One question, with what its header says."""

    packet: bytes
    end: int
    """Where the question ends, in `packet`."""
    name: bytes
    """As asked."""
    key: bytes
    """`name` in lower case."""
    type: int
    qclass: int
    edns: Edns | None

    @property
    def opcode(self) -> int:
        """0 for an ordinary query."""
        return self.packet[2] >> 3 & 0xF

    @property
    def recursion_desired(self) -> bool:
        """RD: the client wants names from elsewhere too."""
        return bool(self.packet[2] & 1)


class Record(NamedTuple):
    """One resource record of class IN; `data` is its RDATA, names in it uncompressed."""

    owner: bytes
    type: int
    ttl_s: int
    data: bytes


def parse_query(packet: bytes) -> Query:
    """Read a query, which the caller knows to have a header.

    Raises Malformed.
    """
    questions, answers, authorities, additional = _COUNTS.unpack_from(packet, 4)
    if questions != 1 or answers or authorities > 1 or additional > _MOST_RECORDS:
        raise Malformed("not one question")
    end = _end_of_name(packet, HEADER_BYTES, pointers=False)
    name = packet[HEADER_BYTES:end]
    if len(packet) < end + 4:
        raise Malformed("the question is cut off")
    kind, qclass = _QUESTION.unpack_from(packet, end)
    edns = _parse_records(packet, end + 4, authorities, additional)
    return Query(packet, end + 4, name, name.lower(), kind, qclass, edns)


def _parse_records(packet: bytes, offset: int, authorities: int, additional: int) -> Edns | None:
    """Walk over the records after the question; returns what the OPT among them says."""
    edns = None
    for number in range(authorities + additional):
        start = offset
        offset = _end_of_name(packet, offset, pointers=True)
        if len(packet) < offset + _RECORD.size:
            raise Malformed("a record is cut off")
        kind, size, flags, length = _RECORD.unpack_from(packet, offset)
        offset += _RECORD.size + length
        if len(packet) < offset:
            raise Malformed("a record is cut off")
        if kind == Type.OPT and number >= authorities:
            if edns is not None or packet[start] != 0:
                raise Malformed("a second OPT, or one with a name")  # RFC 6891 6.1.1, 6.1.2
            edns = Edns(max(size, PLAIN_UDP_BYTES), flags >> 16 & 0xFF, bool(flags & 0x8000))
    if offset != len(packet):
        raise Malformed("bytes after the end")
    return edns


def _end_of_name(packet: bytes, offset: int, *, pointers: bool) -> int:
    """Where the name that starts at `offset` ends. A question's may not have pointers: there is
    nothing before it to point to."""
    limit = min(len(packet), offset + LONGEST_NAME)
    while offset < limit:
        length = packet[offset]
        if length == 0:
            return offset + 1
        if length > LONGEST_LABEL:
            if pointers and length >= 0xC0 and offset + 1 < len(packet):
                return offset + 2
            raise Malformed("a label of more than 63 octets")
        offset += 1 + length
    raise Malformed("a name that does not end")


# ---- names ----


def labels_of(name: bytes) -> list[bytes]:
    """The labels of a well-formed name, without the root."""
    labels, offset = [], 0
    while name[offset]:
        labels.append(name[offset + 1 : offset + 1 + name[offset]])
        offset += 1 + name[offset]
    return labels


def join(*labels: bytes, base: bytes = ROOT) -> bytes:
    """A name from labels, below `base`.

    Raises Malformed when a label or the whole is too long, or a label is empty.
    """
    name = b"".join(bytes((len(_checked(label)),)) + label for label in labels) + base
    if len(name) > LONGEST_NAME:
        raise Malformed("a name of more than 255 octets")
    return name


def _checked(label: bytes) -> bytes:
    if not 0 < len(label) <= LONGEST_LABEL:
        raise Malformed("a label is empty or has more than 63 octets")
    return label


def from_text(text: str) -> bytes:
    r"""A name from its presentation form, absolute with or without the last dot; `\.` and `\ddd` are read.

    Raises Malformed.
    """
    if text in ("", "."):
        return ROOT
    labels, label = [], bytearray()
    octets = iter(text.encode("utf-8"))
    for octet in octets:
        if octet == ord("."):
            labels.append(bytes(label))
            label.clear()
        else:
            label.append(_unescaped(octets) if octet == ord("\\") else octet)
    if label:
        labels.append(bytes(label))
    return join(*labels)


def _unescaped(octets: Iterator[int]) -> int:
    first = next(octets, None)
    if first is None:
        raise Malformed("a backslash at the end")
    if not 0x30 <= first <= 0x39:
        return first
    digits = bytes((first, next(octets, 0), next(octets, 0)))
    if not digits.isdigit() or int(digits) > 255:
        raise Malformed("a backslash before what is no octet")
    return int(digits)


def to_text(name: bytes) -> str:
    """The presentation form, with the last dot (RFC 4343 2.1)."""
    return "".join(_label_text(label) + "." for label in labels_of(name)) or "."


def _label_text(label: bytes) -> str:
    return "".join(
        ("\\" if octet in b'.\\"();@$' else "") + chr(octet) if 0x21 <= octet <= 0x7E else f"\\{octet:03d}"
        for octet in label
    )


def ends_with(name: bytes, suffix: bytes) -> bool:
    """Whether `name` is `suffix` or below it; both in lower case."""
    if not name.endswith(suffix):
        return False
    offset, boundary = 0, len(name) - len(suffix)
    while offset < boundary:  # the octets could also be the inside of a label
        offset += 1 + name[offset]
    return offset == boundary


# ---- records ----


def suffixes(name: bytes) -> dict[bytes, int]:
    """Where each tail of a question's name stands in the message: what answers may point at."""
    found, offset = {}, 0
    while name[offset]:
        found[name[offset:]] = HEADER_BYTES + offset
        offset += 1 + name[offset]
    return found


def compressed(name: bytes, known: Mapping[bytes, int]) -> bytes:
    """`name` with its longest known tail replaced by a pointer (RFC 1035 4.1.4)."""
    offset = 0
    while name[offset]:
        target = known.get(name[offset:].lower())
        if target is not None and target < 0x4000:
            return name[:offset] + (_POINTER | target).to_bytes(2)
        offset += 1 + name[offset]
    return name


def encode(record: Record, known: Mapping[bytes, int]) -> bytes:
    """One record, its owner pointing into the question where it can.

    Names in RDATA are written whole: of most types they have to be (RFC 3597 4).
    """
    fixed = _RECORD.pack(record.type, CLASS_IN, record.ttl_s, len(record.data))
    return compressed(record.owner, known) + fixed + record.data


def encode_asked(kind: int, ttl_s: int, data: bytes) -> bytes:
    """One record of the name asked for."""
    return _ASKED_NAME + _RECORD.pack(kind, CLASS_IN, ttl_s, len(data)) + data


def decode(encoded: bytes, name: bytes) -> Record:
    """What `encode_asked` wrote in a message about `name`."""
    kind, _, ttl_s, _ = _RECORD.unpack_from(encoded, len(_ASKED_NAME))
    return Record(name, kind, ttl_s, encoded[len(_ASKED_NAME) + _RECORD.size :])


def with_owner(owner: bytes, encoded: bytes, known: Mapping[bytes, int]) -> bytes:
    """What `encode_asked` wrote, as a record of another name than the one asked for."""
    return compressed(owner, known) + encoded[len(_ASKED_NAME) :]


def srv_data(priority: int, weight: int, port: int, target: bytes) -> bytes:
    """RDATA of SRV (RFC 2782)."""
    return struct.pack("!HHH", priority, weight, port) + target


def soa_data(primary: bytes, mailbox: bytes, serial: int, minimum_s: int) -> bytes:
    """RDATA of SOA, with the refresh, retry and expire times that CoreDNS gives."""
    return primary + mailbox + struct.pack("!IIIII", serial & 0xFFFFFFFF, 7200, 1800, 86400, minimum_s)


def txt_data(octets: bytes) -> bytes:
    """RDATA of TXT: strings of up to 255 octets."""
    pieces = [octets[start : start + 255] for start in range(0, len(octets), 255)] or [b""]
    return b"".join(bytes((len(piece),)) + piece for piece in pieces)
