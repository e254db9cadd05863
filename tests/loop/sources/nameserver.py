"""A DNS server of a few lines (RFC 1035): answers, errors and silence, as the test likes."""

import asyncio
import struct
from ipaddress import ip_address

A, AAAA = 1, 28
NXDOMAIN, SERVFAIL = 3, 2


class Nameserver(asyncio.DatagramProtocol):
    """`records` has the addresses of each name; names in `errors` get that code, in `silent` nothing."""

    def __init__(self) -> None:
        self.records: dict[str, list[str]] = {}
        self.errors: dict[str, int] = {}
        self.silent: set[str] = set()
        self.ttl_s = 1
        self.asked: list[str] = []

    def connection_made(self, transport) -> None:
        self._transport = transport

    @property
    def address(self) -> str:
        ip, port = self._transport.get_extra_info("sockname")
        return f"{ip}:{port}"

    def close(self) -> None:
        self._transport.close()

    def datagram_received(self, data: bytes, client) -> None:
        name, question = _question(data)
        self.asked.append(name)
        if name not in self.silent:
            self._transport.sendto(self._reply(data[:2], name, question), client)

    def _reply(self, number: bytes, name: str, question: bytes) -> bytes:
        code = self.errors.get(name, 0 if name in self.records else NXDOMAIN)
        (kind,) = struct.unpack("!H", question[-4:-2])
        found = [] if code else [ip_address(text) for text in self.records[name]]
        wanted = [ip.packed for ip in found if ip.version == {A: 4, AAAA: 6}.get(kind)]
        answers = b"".join(
            struct.pack("!HHHIH", 0xC00C, kind, 1, self.ttl_s, len(packed)) + packed for packed in wanted
        )
        return number + struct.pack("!HHHHH", 0x8180 | code, 1, len(wanted), 0, 0) + question + answers


def _question(data: bytes) -> tuple[str, bytes]:
    labels, at = [], 12
    while length := data[at]:
        labels.append(data[at + 1 : at + 1 + length].decode())
        at += 1 + length
    return ".".join(labels), data[12 : at + 5]


async def start() -> Nameserver:
    _, server = await asyncio.get_running_loop().create_datagram_endpoint(
        Nameserver, local_addr=("127.0.0.1", 0)
    )
    return server
