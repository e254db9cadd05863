"""A reader of PROXY headers, version 2, written from section 2.2 of the specification."""

import socket
import struct
from typing import NamedTuple

SIGNATURE = bytes((0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A))
FIXED_BYTES = 16


class Header(NamedTuple):
    """What the sender says; the addresses are None for LOCAL."""

    source: tuple[str, int] | None
    destination: tuple[str, int] | None


def length(data: bytes) -> int:
    """How long the header is that begins with these 16 bytes."""
    return FIXED_BYTES + int(struct.unpack_from("!H", data, 14)[0])


def parse(data: bytes) -> tuple[Header, bytes]:
    """The header, and what follows it. Raises ValueError for what is none."""
    if data[:12] != SIGNATURE:
        raise ValueError(f"no PROXY header: {data[:12]!r}")
    version, command = data[12] >> 4, data[12] & 0x0F
    if version != 2 or command > 1:
        raise ValueError(f"version {version}, command {command}")
    body, rest = data[FIXED_BYTES : length(data)], data[length(data) :]
    if command == 0:
        return Header(None, None), rest
    family, transport = data[13] >> 4, data[13] & 0x0F
    if transport != 1:
        raise ValueError(f"transport {transport} is not STREAM")
    size, kind = {1: (4, socket.AF_INET), 2: (16, socket.AF_INET6)}[family]
    if len(body) < 2 * size + 4:
        raise ValueError(f"{len(body)} bytes of addresses")
    ports = struct.unpack_from("!HH", body, 2 * size)
    addresses = [socket.inet_ntop(kind, body[at : at + size]) for at in (0, size)]
    return Header((addresses[0], ports[0]), (addresses[1], ports[1])), rest
