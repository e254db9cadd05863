"""What other servers answer: read as dnspython reads it, and never taken for more than it is."""

import random

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from uproxy.dns.cache import Outcome
from uproxy.dns.replies import answers, question, read_reply, truncated
from uproxy.dns.wire import Malformed, Rcode, Record, Type, from_text, to_text

NAME = from_text("example.com")
ASKED = question(7, NAME, Type.MX, dnssec=False)


def reply(*records: str, authority: str = "", rcode: int = 0, flags: int = 0) -> bytes:
    made = dns.message.make_response(dns.message.from_wire(ASKED))
    made.set_rcode(rcode)
    made.flags |= flags
    sections = ((made.answer, records), (made.authority, [authority] if authority else []))
    for section, texts in sections:
        for text in texts:
            name, ttl, kind, data = text.split(" ", 3)
            section.append(dns.rrset.from_text(name, int(ttl), "IN", kind, data))
    return made.to_wire()


@pytest.mark.parametrize("dnssec", [False, True])
def test_a_question_is_what_dnspython_takes_it_for(dnssec):
    read = dns.message.from_wire(question(0xABCD, NAME, 65, dnssec=dnssec))
    assert (read.id, str(read.question[0])) == (0xABCD, "example.com. IN HTTPS")
    assert read.flags == dns.flags.RD
    assert (read.payload, bool(read.ednsflags & dns.flags.DO)) == (1232, dnssec)


def test_names_are_written_out():
    """dnspython compresses all names that it may."""
    found = read_reply(
        reply("example.com. 60 MX 10 mail.example.com.", "a.example.com. 61 NS b.example.com.")
    )
    assert found == Outcome(
        Rcode.NOERROR,
        (
            Record(NAME, Type.MX, 60, b"\0\x0a" + from_text("mail.example.com")),
            Record(from_text("a.example.com"), Type.NS, 61, from_text("b.example.com")),
        ),
    )


def test_absence_and_who_says_so():
    found = read_reply(reply(authority="com. 9 SOA a.com. b.a.com. 1 2 3 4 5", rcode=dns.rcode.NXDOMAIN))
    assert (found.rcode, found.records) == (Rcode.NXDOMAIN, ())
    (soa,) = found.authority
    assert (to_text(soa.owner), soa.data[:12]) == ("com.", from_text("a.com") + b"\1b\1a\3")


@pytest.mark.parametrize(
    "rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTIMP, dns.rcode.FORMERR]
)
def test_what_is_neither_yes_nor_no_is_a_failure(rcode):
    assert read_reply(reply(rcode=rcode)) == Outcome(Rcode.SERVFAIL)


def test_only_a_reply_to_the_question_is_taken_for_one():
    good = reply()
    assert answers(ASKED, good)
    assert not truncated(good)
    assert truncated(reply(flags=dns.flags.TC))
    assert not answers(ASKED, ASKED), "a query is no reply"
    for at in (0, 1, 2, 13, 24, 26, 28):
        changed = bytearray(good)
        changed[at] ^= 0x81
        assert not answers(ASKED, changed), at
    assert not any(answers(ASKED, good[:length]) for length in range(len(ASKED) - 11))


@pytest.mark.parametrize(
    "tail",
    [
        b"",
        b"\xc0",
        b"\xc0\x0c\0\1",
        b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\1\2\3",
        b"\xc0\xff\0\1\0\1\0\0\0\0\0\0",
        b"\xc0\x1d\0\1\0\1\0\0\0\0\0\0",  # a pointer to itself
        b"\xc0\x0c\0\5\0\1\0\0\0\0\0\1\3abc\0",  # a name longer than its record
        b"\x40" + bytes(80),
        b"\x3f" + b"a" * 63 + b"\xc0\x1d" + bytes(10),  # round and round
    ],
)
def test_malformed_replies(tail):
    packet = ASKED[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + ASKED[12:29] + tail
    assert answers(ASKED, packet)
    with pytest.raises(Malformed):
        read_reply(packet)


def test_no_reply_raises_anything_else():
    chance = random.Random(1)
    good = reply(
        "example.com. 60 MX 10 mail.example.com.",
        "example.com. 60 SOA a.example.com. b.example.com. 1 2 3 4 5",
        authority="com. 9 SOA a.com. b.a.com. 1 2 3 4 5",
    )
    for _ in range(20_000):
        packet = bytearray(good)
        for _ in range(chance.randrange(1, 6)):
            packet[chance.randrange(29, len(packet))] = chance.choice(
                (0, 1, 63, 64, 192, 255, chance.randrange(256))
            )
        del packet[chance.randrange(29, len(packet) + 1) :]
        try:
            read_reply(bytes(packet))
        except Malformed:
            continue
