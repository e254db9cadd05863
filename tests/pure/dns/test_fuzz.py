"""Packets that nobody would write: no exception, no growth, and nothing much larger than what was sent.

A few thousand of them; a million with UPROXY_TESTS_LONG.
"""

import os
import random
import time

import pytest

from tests.pure.dns.rig import Server, external, headless, piece, service
from uproxy.dns import wire
from uproxy.dns.responder import Deferred

LONG = bool(os.environ.get("UPROXY_TESTS_LONG"))
PACKETS = 1_000_000 if LONG else 20_000
ENOUGH_S = 300 if LONG else 20
"""However slow the machine is, this is when it stops."""
NAMES = (
    "web.default.svc.cluster.local",
    "db.default.svc.cluster.local",
    "ext.default.svc.cluster.local",
    "loop.default.svc.cluster.local",
    "_pg._tcp.db.default.svc.cluster.local",
    "1-2-3-4.default.pod.cluster.local",
    "cluster.local",
    "1.0.30.172.in-addr.arpa",
    "nobody.cluster.local",
    "example.com",
    ".",
)
KINDS = (1, 28, 33, 12, 5, 6, 2, 16, 255, 252, 41, 65)


@pytest.fixture
def server() -> Server:
    objects = (
        service("web", "http:80", ips="172.30.0.1 fd00::1"),
        headless("db", "pg:5432"),
        piece("db", *(f"10.0.0.{number}" for number in range(1, 200)), ports="pg:5432"),
        external("ext", "example.com"),
        external("loop", "loop.default.svc.cluster.local"),
    )
    return Server(*objects, servers=("10.0.0.53",)).with_upstream()


def proper(chance: random.Random) -> bytearray:
    """A query that is well-formed, as most are."""
    packet = bytearray(chance.randbytes(2) + bytes((chance.choice((0, 1)), 0)) + b"\0\1\0\0\0\0\0\0")
    packet += wire.from_text(chance.choice(NAMES)) + chance.choice(KINDS).to_bytes(2) + b"\0\1"
    if chance.random() < 0.5:
        packet[11] = 1
        packet += b"\0\0\x29" + chance.choice((0, 512, 1232, 65535)).to_bytes(2) + bytes(6)
    return packet


def spoiled(chance: random.Random) -> bytes:
    """A query with some octets changed, cut out, doubled or put in; or no query at all."""
    packet = proper(chance)
    for _ in range(chance.choice((0, 1, 1, 2, 8))):
        at = chance.randrange(len(packet) + 1)
        match chance.randrange(5):
            case 0:
                packet[at : at + 1] = chance.randbytes(1)
            case 1:
                del packet[at : at + chance.randrange(1, 12)]
            case 2:
                packet[at:at] = packet[at : at + chance.randrange(1, 20)]
            case 3:
                packet[at:at] = chance.choice((b"\xc0\x0c", b"\0", b"\x3f", b"\xff" * 4, b"\x40"))
            case 4:
                packet = packet[:at]
    return bytes(packet)


@pytest.mark.timeout(ENOUGH_S + 60)
def test_no_packet_is_too_much(server):
    chance = random.Random(1)
    names, deadline = len(server.zone.names), time.monotonic() + ENOUGH_S
    rcodes: set[int] = set()
    for number in range(PACKETS):
        packet = spoiled(chance) if number % 50 else chance.randbytes(chance.randrange(80))
        answer = server.send(packet)
        if isinstance(answer, bytes):
            rcodes.add(answer[3] & 0xF)
            assert answer[:2] == packet[:2]
            assert answer[2] & 0x80
            truncated = answer[2] & 0x02
            assert truncated or len(answer) <= 10 * len(packet)
            assert len(answer) <= 1232
        else:
            assert answer is None or isinstance(answer, Deferred)
        if time.monotonic() > deadline:
            break
    assert rcodes >= {0, 1, 2, 3, 4, 5}, "the packets are all alike"
    assert len(server.zone.names) == names


def test_no_answer_is_taken_for_a_query(server):
    """Two servers that talk to each other must fall silent."""
    chance = random.Random(2)
    for _ in range(2000):
        answer = server.send(spoiled(chance))
        if isinstance(answer, bytes):
            assert server.send(answer) is None
