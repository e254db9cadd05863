from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uproxy.bench.load.python import http
from uproxy.bench.load.wire import HEADER, Header, Incoming, Kind, Mismatch, exchange, message, name_of


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({cut % len(data) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(ends)]


def test_a_message_of_64_bytes_is_64_bytes_on_the_wire():
    assert len(exchange(64, 64, 1)) == 64


@given(st.integers(HEADER, 5_000), st.lists(st.integers(0, 5_000), max_size=6))
def test_a_message_may_come_in_any_pieces(length, cuts):
    reply = message(Header(Kind.REPLY, length, 7, b"pod-a"))
    incoming = Incoming()
    for piece in in_pieces(reply, cuts):
        assert not incoming.whole
        assert incoming.feed(piece) == len(piece)
    assert incoming.whole
    assert (incoming.header.sequence, name_of(incoming.header)) == (7, "pod-a")


def test_what_follows_a_message_is_left_for_the_next():
    incoming = Incoming()
    assert incoming.feed(exchange(64, 64, 1) + b"next") == 64
    assert incoming.whole


def test_a_request_tells_how_long_its_reply_is():
    incoming = Incoming()
    incoming.feed(exchange(64, 4_096, 9))
    assert (incoming.header.reply_length, incoming.header.sequence) == (4_096, 9)


@pytest.mark.parametrize("at", [0, 1, 2, HEADER, 63])
def test_a_wrong_byte_is_noticed(at):
    wrong = bytearray(exchange(64, 64, 1))
    wrong[at] ^= 0xFF
    with pytest.raises(Mismatch):
        Incoming().feed(bytes(wrong))


def test_a_lost_byte_inside_a_long_message_is_noticed():
    long = exchange(100_000, 64, 1)
    with pytest.raises(Mismatch):
        Incoming().feed(long[:50_000] + long[50_001:] + b"x")


@given(st.lists(st.integers(0, 200), max_size=5))
def test_an_http_reply_may_come_in_any_pieces(cuts):
    reply = http.Reply()
    *first, last = in_pieces(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", cuts)
    assert [reply.feed(piece) for piece in first] == [False] * len(first)
    assert reply.feed(last)
    assert not reply.is_last


def test_an_http_reply_says_that_it_is_the_last():
    reply = http.Reply()
    assert reply.feed(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    assert reply.is_last


def test_http_without_a_length_cannot_be_measured():
    with pytest.raises(Mismatch):
        http.Reply().feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")


def test_http_that_is_not_200_is_told_apart():
    with pytest.raises(http.BadStatus):
        http.Reply().feed(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
