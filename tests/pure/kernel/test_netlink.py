"""Messages and attributes, there and back."""

import errno
import struct

from hypothesis import example, given
from hypothesis import strategies as st

from uproxy.kernel.netlink import NESTED, attribute, attributes, errno_of, message, messages

KINDS, PAYLOADS = st.integers(0, 0x3FFF), st.binary(max_size=40)


@given(st.lists(st.tuples(KINDS, PAYLOADS)))
def test_attributes_are_read_as_they_are_written(some: list[tuple[int, bytes]]) -> None:
    assert list(attributes(b"".join(attribute(*one) for one in some))) == some


@given(st.lists(st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF), PAYLOADS)))
def test_messages_are_read_as_they_are_written(some: list[tuple[int, int, bytes]]) -> None:
    data = b"".join(message(kind, 1, sequence, body) for kind, sequence, body in some)
    found = list(messages(data))
    assert [one[:2] for one in found] == [one[:2] for one in some]
    assert [its for *_, its in found] == [its for *_, its in some]


@given(st.binary())
@example(bytes(16))
def test_anything_can_be_read(data: bytes) -> None:
    list(attributes(data))
    list(messages(data))


def test_those_that_hold_others_have_the_same_number() -> None:
    assert list(attributes(attribute(NESTED | 3, attribute(1, b"x")))) == [(3, attribute(1, b"x"))]


def test_an_errno() -> None:
    assert errno_of(struct.pack("=i", -errno.ENOENT) + b"more") == errno.ENOENT
    assert errno_of(struct.pack("=i", 0)) == 0
