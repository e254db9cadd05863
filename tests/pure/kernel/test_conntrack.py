"""What conntrack says, as values, and what endpoints have had by it."""

import struct
from ipaddress import ip_address

import pytest

from uproxy.handoff.conntrack_tally import Tally
from uproxy.handoff.mechanism import Counts
from uproxy.kernel.conntrack_looks import Alike, Looks, Traffic
from uproxy.kernel.conntrack_messages import Translated, flows, translated, tuple_of
from uproxy.kernel.netlink import NESTED, attribute
from uproxy.model.frontend import Backend
from uproxy.model.names import Family, Protocol, ServicePortName

POD = Backend(ip_address("10.244.0.1"), 8080)
KEY = ServicePortName("default", "web", "web", Protocol.TCP), POD
TRANSLATED, ESTABLISHED, TIME_WAIT = 1 << 5, 3, 7


def packed(kind: int, *its: bytes) -> bytes:
    return attribute(NESTED | kind, b"".join(its))


def one_way(kind: int, source: tuple[str, int], to: tuple[str, int], protocol: int = 6) -> bytes:
    ips = [ip_address(ip).packed for ip, _ in (source, to)]
    first = 1 if len(ips[0]) == 4 else 3
    addresses = packed(1, *(attribute(first + at, ip) for at, ip in enumerate(ips)))
    ports = [attribute(2 + at, port.to_bytes(2, "big")) for at, (_, port) in enumerate((source, to))]
    return packed(kind, addresses, packed(2, attribute(1, bytes((protocol,))), *ports))


def told(
    client_port: int = 40000,
    status: int = TRANSLATED,
    state: int | None = ESTABLISHED,
    counted: tuple[int, int] | None = (3, 200),
    identity: bytes = b"idid",
    vip: str = "172.30.0.1",
    pod: str = str(POD.ip),
    protocol: int = 6,
) -> bytes:
    """A message, with its attributes in the order of the kernel."""
    client = ("192.0.2.1" if "." in vip else "2001:db8::1"), client_port
    its = [
        one_way(1, client, (vip, 80), protocol),
        one_way(2, (pod, POD.port), client, protocol),
        attribute(3, struct.pack("!I", status)),
        attribute(7, struct.pack("!I", 60)),
    ]
    if counted is not None:
        for kind, factor in ((9, 1), (10, 2)):
            numbers = [attribute(at, struct.pack("!Q", factor * its)) for at, its in enumerate(counted, 1)]
            its.append(packed(kind, *numbers))
    if state is not None:
        its.append(packed(4, packed(1, attribute(1, bytes((state,))))))
    return struct.pack("=BBH", 2, 0, 0) + b"".join((*its, attribute(12, identity)))


def read(*messages: bytes, family: Family = 4) -> list[tuple]:
    return [flow for _, flow in flows(messages, family)]


def test_who_calls_where_and_who_answers() -> None:
    alike, identity, is_open, counters = read(told())[0]
    assert translated(alike) == Translated(Protocol.TCP, ip_address("172.30.0.1"), 80, POD)
    assert (identity, is_open, counters) == (b"idid" + (40000).to_bytes(2, "big"), True, (3, 200, 6, 400))
    ((alike, *_),) = read(told(vip="fd00::1", pod="fd00:10::1"), family=6)
    six = Backend(ip_address("fd00:10::1"), 8080)
    assert translated(alike) == Translated(Protocol.TCP, ip_address("fd00::1"), 80, six)


def test_it_is_open_up_to_its_end() -> None:
    found = read(told(state=ESTABLISHED), told(state=TIME_WAIT), told(state=None, protocol=17))
    assert [is_open for _, _, is_open, _ in found] == [True, False, True]


def test_messages_of_one_size_may_have_other_attributes() -> None:
    # Without counters, and with as many bytes of something else before the state.
    filling = attribute(20, bytes(52))
    bare = told(counted=None)
    at = bare.index(attribute(7, struct.pack("!I", 60))) + 8
    other = bare[:at] + filling + bare[at:]
    assert len(other) == len(told())
    found = read(told(), other, told(), told(state=TIME_WAIT))
    assert [counters for *_, counters in found] == [(3, 200, 6, 400), (0, 0, 0, 0), *[(3, 200, 6, 400)] * 2]
    assert [is_open for _, _, is_open, _ in found] == [True, True, True, False]


def test_what_is_not_translated_or_has_no_ports_is_passed_over() -> None:
    assert read(told(status=0), struct.pack("=BBH", 2, 0, 0) + bytes(20)) == []
    ((alike, *_),) = read(told(protocol=1))
    assert translated(alike) is None
    assert tuple_of(told(), 4) == one_way(1, ("192.0.2.1", 40000), ("172.30.0.1", 80))


def look(looks: Looks, *flows: tuple[bytes, bool, int]) -> dict[bytes, Alike]:
    return looks.look((b"web", identity, is_open, (1, had, 1, 2 * had)) for identity, is_open, had in flows)


def test_each_connection_is_counted_once_and_its_bytes_as_they_come() -> None:
    looks = Looks()
    assert look(looks, (b"1", True, 10)) == {b"web": Alike(1, Traffic(1, 1, 10, 1, 20))}
    assert look(looks, (b"1", True, 15)) == {b"web": Alike(1, Traffic(0, 0, 5, 0, 10))}
    assert look(looks, (b"1", False, 15), (b"2", True, 1)) == {b"web": Alike(1, Traffic(1, 1, 1, 1, 2))}
    assert look(looks) == {}
    assert look(looks, (b"2", True, 1), (b"2", True, 1)) == {b"web": Alike(1, Traffic(1, 1, 1, 1, 2))}


def test_a_look_that_fails_forgets_nothing() -> None:
    looks = Looks()
    look(looks, (b"1", True, 10))

    def interrupted():
        yield b"web", b"1", True, (1, 12, 1, 24)
        raise OSError("interrupted")

    with pytest.raises(OSError, match="interrupted"):
        looks.look(interrupted())
    assert look(looks, (b"1", True, 15)) == {b"web": Alike(1, Traffic(0, 0, 5, 0, 10))}


def test_counts_are_payload() -> None:
    tally = Tally()
    assert tally.counts() == {}
    tally.see([(KEY, Alike(1, Traffic(1, 2, 2 * 52 + 8 + 10, 1, 52 + 8 + 20)))])
    assert tally.counts() == {KEY: Counts(1, 10, 20)}
    assert tally.open([KEY[0]]) == {KEY[0]: 1}
    tally.see([(KEY, Alike(0, Traffic(0, 1, 52 + 5, 1, 52)))])
    assert tally.open([KEY[0]]) == {KEY[0]: 0}
    assert tally.counts() == {KEY: Counts(1, 15, 20)}
    tally.forget([KEY])
    assert tally.counts() == {}
