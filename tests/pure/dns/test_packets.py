"""Packets, byte by byte: EDNS, sizes and truncation, and everything that is no proper query."""

import struct

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import pytest

from tests.pure.dns.rig import Server, external, headless, lines, piece, service
from uproxy.dns import wire
from uproxy.dns.responder import Deferred

SVC = "default.svc.cluster.local."
WEB = service("web", "http:80", ips="172.30.0.1")
MANY = [f"10.0.{number // 250}.{number % 250}" for number in range(400)]


@pytest.fixture
def server() -> Server:
    return Server(WEB, headless("db", "pg:1"), piece("db", *MANY, ports="pg:1"))


def query(name: str = f"web.{SVC}", kind: str = "A", **options) -> dns.message.Message:
    return dns.message.make_query(name, kind, **options)


def exchange(server: Server, asked: dns.message.Message, *, udp: bool = True) -> dns.message.Message:
    return dns.message.from_wire(server.send(asked.to_wire(), udp=udp))


def test_the_header_of_an_answer(server):
    asked = query(flags=dns.flags.RD | dns.flags.CD | dns.flags.AD)
    answer = exchange(server, asked)
    assert answer.id == asked.id
    assert answer.flags == dns.flags.QR | dns.flags.AA | dns.flags.RD | dns.flags.CD
    assert exchange(server.with_upstream(), query(flags=0)).flags == (
        dns.flags.QR | dns.flags.AA | dns.flags.RA
    )


@pytest.mark.parametrize("name", [f"web.{SVC}", "nobody.cluster.local.", "example.com."])
def test_opt_is_answered_by_opt_and_only_then(server, name):
    plain = exchange(server, query(name, use_edns=False))
    assert plain.edns == -1
    edns = exchange(server, query(name, use_edns=0, payload=4096, want_dnssec=True))
    assert (edns.edns, edns.payload) == (0, 1232)
    assert edns.ednsflags == dns.flags.DO


def test_options_that_nobody_knows_are_passed_over(server):
    cookie = dns.edns.GenericOption(10, b"12345678")
    answer = exchange(server, query(use_edns=0, options=[cookie]))
    assert lines(answer.answer) == [f"web.{SVC} 5 A 172.30.0.1"]
    assert answer.options == ()


def test_another_version_of_edns_is_badvers(server):
    asked = bytearray(query(use_edns=0).to_wire())
    asked[-5] = 1
    answer = dns.message.from_wire(server.send(bytes(asked)))
    assert answer.rcode() == dns.rcode.BADVERS
    assert not answer.answer


@pytest.mark.parametrize(
    ("payload", "most"),
    [
        pytest.param(None, 512, id="without EDNS"),
        pytest.param(100, 512, id="less than 512 is 512"),
        pytest.param(4096, 1232, id="no more than 1232"),
    ],
)
def test_an_answer_by_udp_is_cut_to_whole_records_with_tc(server, payload, most):
    asked = query(f"db.{SVC}", **({"use_edns": 0, "payload": payload} if payload else {"use_edns": False}))
    packet = asked.to_wire()
    sent = server.send(packet)
    answer = dns.message.from_wire(sent, raise_on_truncation=False)
    assert answer.flags & dns.flags.TC
    most = min(most, 10 * len(packet))
    assert most - 16 < len(sent) <= most
    assert len(answer.answer[0]) == (len(sent) - len(packet)) // 16


def test_ten_times_the_query_is_enough_for_1232(server):
    padded = query(f"db.{SVC}", use_edns=0, payload=4096, pad=128)
    sent = server.send(padded.to_wire())
    assert 1232 - 16 < len(sent) <= 1232


def test_by_tcp_the_answer_is_whole(server):
    answer = exchange(server, query(f"db.{SVC}"), udp=False)
    assert not answer.flags & dns.flags.TC
    assert len(answer.answer[0]) == 400


def test_even_by_tcp_a_message_has_65535_octets_at_most():
    endpoints = [f"10.{number // 65536}.{number // 256 % 256}.{number % 256}" for number in range(1500)]
    server = Server(headless("db", "pg:1"), piece("db", *endpoints, ports="pg:1"))
    sent = server.send(query(f"_pg._tcp.db.{SVC}", "SRV").to_wire(), udp=False)
    assert len(sent) <= 65535
    assert dns.message.from_wire(sent).flags & dns.flags.TC


def test_additional_records_are_left_out_without_tc():
    server = Server(headless("db", "pg:1"), piece("db", *MANY[:6], ports="pg:1"))
    asked = query(f"_pg._tcp.db.{SVC}", "SRV", use_edns=False)
    answer = exchange(server, asked)
    assert not answer.flags & dns.flags.TC
    assert len(answer.answer[0]) == 6
    assert len(lines(answer.additional)) < 6
    assert len(lines(exchange(server, asked, udp=False).additional)) == 6


def test_the_limit_of_the_quick_way_is_that_of_the_other():
    """Answers around the limit: neither way may send more than was asked for."""
    for count in range(1, 60):
        server = Server(headless("db"), piece("db", *MANY[:count]))
        for payload in (512, 513, 530, 1232):
            packet = query(f"db.{SVC}", use_edns=0, payload=payload, pad=128).to_wire()
            sent = server.send(packet)
            answer = dns.message.from_wire(sent)
            cut = bool(answer.flags & dns.flags.TC)
            whole = len(server.send(packet, udp=False))
            assert len(sent) <= payload
            assert cut == (whole > payload)


# ---- what is no query ----


def header(flags: int = 0x0100, counts=(1, 0, 0, 0)) -> bytes:
    return struct.pack("!HHHHHH", 0x1234, flags, *counts)


QUESTION = wire.from_text(f"web.{SVC}") + b"\0\1\0\1"
OPT = b"\0\0\x29\x04\xd0\0\0\0\0\0\0"


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(header()[:11], id="half a header"),
        pytest.param(header(0x8180) + QUESTION, id="an answer"),
        pytest.param(header(0x8180, (0, 0, 0, 0)), id="an empty answer"),
    ],
)
def test_what_is_not_even_a_query_gets_no_answer(server, packet):
    assert server.send(packet) is None


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(header(counts=(0, 0, 0, 0)), id="no question"),
        pytest.param(header(counts=(2, 0, 0, 0)) + QUESTION * 2, id="two questions"),
        pytest.param(header(counts=(1, 1, 0, 0)) + QUESTION, id="an answer in a query"),
        pytest.param(header(), id="a question only promised"),
        pytest.param(header() + QUESTION[:-1], id="half a question"),
        pytest.param(header() + QUESTION + b"x", id="more than was promised"),
        pytest.param(header() + b"\xc0\x0c\0\1\0\1", id="a name that points at itself"),
        pytest.param(header() + b"\x40abc\0\0\1\0\1", id="a label of 64 octets"),
        pytest.param(header() + b"\x3f" * 10, id="a label beyond the end"),
        pytest.param(header() + b"\1a" * 128 + b"\0\0\1\0\1", id="a name of 257 octets"),
        pytest.param(header(counts=(1, 0, 0, 1)) + QUESTION, id="a record only promised"),
        pytest.param(header(counts=(1, 0, 0, 1)) + QUESTION + OPT[:-1], id="half an OPT"),
        pytest.param(header(counts=(1, 0, 0, 1)) + QUESTION + OPT[:-1] + b"\x05abc", id="a short OPT"),
        pytest.param(header(counts=(1, 0, 0, 2)) + QUESTION + OPT * 2, id="two OPTs"),
        pytest.param(header(counts=(1, 0, 0, 1)) + QUESTION + b"\1a" + OPT, id="an OPT with a name"),
        pytest.param(header(counts=(1, 0, 0, 3)) + QUESTION + OPT, id="three additional records"),
        pytest.param(header(counts=(1, 0, 2, 0)) + QUESTION, id="two authorities"),
    ],
)
def test_what_is_malformed_gets_a_bare_formerr(server, packet):
    assert server.send(packet) == packet[:2] + b"\x81\x01" + bytes(8)


def test_the_longest_name_can_be_asked():
    name = b"\x3f" + b"a" * 63
    packet = header() + name * 3 + b"\x3d" + b"b" * 61 + b"\0" + b"\0\1\0\1"
    answer = dns.message.from_wire(Server().send(packet))
    assert answer.rcode() == dns.rcode.REFUSED
    assert len(answer.question[0].name.to_wire()) == 255


def test_records_of_a_query_that_mean_nothing_here_are_walked_over(server):
    signature = b"\xc0\x0c\0\xfa\0\xff\0\0\0\0\0\2xx"
    sent = server.send(header(counts=(1, 0, 0, 2)) + QUESTION + OPT + signature)
    answer = dns.message.from_wire(sent)
    assert lines(answer.answer) == [f"web.{SVC} 5 A 172.30.0.1"]
    assert answer.edns == 0


@pytest.mark.parametrize(
    ("asked", "rcode"),
    [
        pytest.param(query(kind="AXFR"), dns.rcode.REFUSED, id="AXFR"),
        pytest.param(query(kind="IXFR"), dns.rcode.REFUSED, id="IXFR"),
        pytest.param(query(kind=41), dns.rcode.NOTIMP, id="OPT as a question"),
        pytest.param(query(kind=250), dns.rcode.NOTIMP, id="TSIG as a question"),
        pytest.param(query(rdclass="CH", kind="TXT"), dns.rcode.REFUSED, id="class CHAOS"),
        pytest.param(query(rdclass="ANY"), dns.rcode.REFUSED, id="class ANY"),
        pytest.param(query("example.com."), dns.rcode.REFUSED, id="a name elsewhere, without upstream"),
        pytest.param(query("."), dns.rcode.REFUSED, id="the root"),
        pytest.param(query(kind=65280), dns.rcode.NOERROR, id="a private type"),
        pytest.param(query(kind="HTTPS"), dns.rcode.NOERROR, id="HTTPS"),
    ],
)
def test_what_is_asked_for_in_vain(server, asked, rcode):
    answer = exchange(server, asked)
    assert answer.rcode() == rcode
    assert not answer.answer


@pytest.mark.parametrize("opcode", [1, 2, 4, 5, 6, 15])
def test_other_operations_are_not_implemented(server, opcode):
    packet = header(opcode << 11 | 0x0100) + QUESTION
    answer = server.send(packet)
    assert answer[3] & 0xF == dns.rcode.NOTIMP
    assert answer[2] >> 3 & 0xF == opcode
    malformed = server.send(header(opcode << 11) + b"\x40")
    assert malformed[3] & 0xF == dns.rcode.NOTIMP


def test_everything_is_servfail_before_the_zone_is_complete():
    server = Server(WEB, ready=False)
    for name in (f"web.{SVC}", "nobody.cluster.local.", "example.com."):
        assert exchange(server, query(name)).rcode() == dns.rcode.SERVFAIL
    server.responder.ready = True
    assert exchange(server, query()).rcode() == dns.rcode.NOERROR


def test_a_label_that_looks_like_the_domain_inside_is_elsewhere(server):
    inside = b"\x0fabcdefg\x07cluster" + b"\x05local\0"
    assert inside.endswith(wire.from_text("cluster.local"))
    packet = header() + inside + b"\0\1\0\1"
    assert server.send(packet)[3] & 0xF == dns.rcode.REFUSED


# ---- what goes upstream ----


def test_names_elsewhere_are_deferred_only_when_recursion_is_desired(server):
    server.with_upstream()
    asked = server.send(query("Example.com.").to_wire())
    assert isinstance(asked, Deferred)
    assert asked.name == wire.from_text("example.com")
    refused = exchange(server, query("example.com.", flags=0))
    assert refused.rcode() == dns.rcode.REFUSED


def test_an_external_name_elsewhere_is_deferred_with_its_alias():
    server = Server(external("ext", "Example.com"), external("two", f"ext.{SVC}")).with_upstream()
    asked = server.send(query(f"two.{SVC}").to_wire())
    assert isinstance(asked, Deferred)
    assert asked.name == wire.from_text("example.com")
    assert [record.owner for record in asked.chain] == [wire.from_text(f"{n}.{SVC}") for n in ("two", "ext")]
    without = exchange(server, query(f"two.{SVC}", flags=0))
    assert len(without.answer) == 2


def test_a_question_that_came_back_closes_the_way_upstream(server):
    server.with_upstream()
    probe = wire.to_text(wire.join(b"0123", b"uproxy-loop-probe"))
    assert isinstance(server.send(query("example.com.").to_wire()), Deferred)
    assert exchange(server, query(probe)).rcode() == dns.rcode.REFUSED
    assert exchange(server, query("example.com.")).rcode() == dns.rcode.REFUSED
    assert exchange(server, query()).rcode() == dns.rcode.NOERROR
    assert server.stats.loops == 1


# ---- names ----


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (".", b"\0"),
        ("", b"\0"),
        ("a.B.", b"\1a\1B\0"),
        (r"a\.b.c", b"\3a.b\1c\0"),
        (r"\255\\", b"\2\xff\\\0"),
    ],
)
def test_names_from_text_and_back(text, name):
    assert wire.from_text(text) == name
    assert wire.from_text(wire.to_text(name)) == name


@pytest.mark.parametrize(
    "text", ["a..b", "." * 2, "a" * 64, ".".join(["a" * 63] * 4), "a\\", r"\25x", r"\999"]
)
def test_text_that_is_no_name(text):
    with pytest.raises(wire.Malformed):
        wire.from_text(text)


def test_a_tail_counts_only_from_the_start_of_a_label():
    tail = wire.from_text("cluster.local")
    assert wire.ends_with(wire.from_text("x.cluster.local"), tail)
    assert wire.ends_with(tail, tail)
    assert not wire.ends_with(b"\x0ax\x07cluster\x05local\0"[:10] + b"\x05local\0", tail)
    inside = b"\x09x\x07cluster" + b"\x05local\0"
    assert inside.endswith(tail)
    assert not wire.ends_with(inside, tail)
