"""Which upstream servers there are: from a flag, or from resolv.conf, and none that is this process.

Owns reading resolv.conf, and finding those servers that would lead straight back here.
"""

import errno
import socket
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from uproxy.dns.wire import Malformed, from_text
from uproxy.kit.reading import read_regular
from uproxy.settings import Address

RESOLV_CONF = Path("/etc/resolv.conf")
DNS_PORT = 53
_MOST_BYTES = 65536


class ResolvConf(NamedTuple):
    """What of resolv.conf matters here (resolv.conf(5))."""

    servers: tuple[Address, ...]
    search: tuple[bytes, ...]
    """Names in lower case."""


def parse_resolv_conf(text: str) -> ResolvConf:
    """Read a resolv.conf; lines that make no sense are skipped, as resolvers do."""
    servers: list[Address] = []
    search: tuple[bytes, ...] = ()
    for line in text.splitlines():
        words = line.split()
        match words[:1]:
            case ["nameserver"] if len(words) > 1:
                servers += _server(words[1])
            case ["search" | "domain"]:
                search = tuple(name for word in words[1:] for name in _name(word))
            case _:
                pass
    return ResolvConf(tuple(servers), search)


def read_resolv_conf(path: Path = RESOLV_CONF) -> ResolvConf:
    """The machine's resolv.conf; empty when there is none."""
    try:
        return parse_resolv_conf(read_regular(path).decode("utf-8", "replace")[:_MOST_BYTES])
    except OSError:
        return ResolvConf((), ())


def _server(word: str) -> list[Address]:
    try:
        ip_address(word)
    except ValueError:
        return []
    return [(word, DNS_PORT)]


def _name(word: str) -> list[bytes]:
    try:
        return [from_text(word.lower())]
    except Malformed:
        return []


def without_own(servers: Iterable[Address], listening: Sequence[Address]) -> list[Address]:
    """The servers but for those that are this process: it would ask itself for ever."""
    return [server for server in servers if not _is_own(server, listening)]


def _is_own(server: Address, listening: Sequence[Address]) -> bool:
    ip, port = server
    for own, own_port in listening:
        if port != own_port:
            continue
        ours, theirs = ip_address(own), ip_address(ip)
        if ours == theirs or (ours.is_unspecified and ours.version == theirs.version and _is_local(ip)):
            return True
    return False


def _is_local(ip: str) -> bool:
    """Whether an address is this machine's: only then can it be bound."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((ip, 0))
    except OSError as error:
        return error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
    return True
