"""Lines of a watch come whole, wherever the pieces that bring them are cut."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from uproxy.sources.kubernetes.reflector import _lines

TEXT = '{"a":"z\u00fcrich \u6771\u4eac \U0001f600"}\n{}\n'.encode()


class Body:
    """A response body that comes in pieces."""

    def __init__(self, pieces):
        self._pieces = pieces

    async def iter_any(self):
        for piece in self._pieces:
            yield piece


@given(st.lists(st.integers(0, len(TEXT)), max_size=8).map(sorted))
async def test_also_within_a_character(cuts):
    edges = [0, *cuts, len(TEXT)]
    pieces = [TEXT[start:end] for start, end in pairwise(edges)]
    lines = [line async for some in _lines(Body(pieces)) for line in some]
    assert lines == TEXT.split(b"\n")[:-1]


async def test_what_an_end_cuts_off_is_left_out():
    assert [lines async for lines in _lines(Body([b"one\ntw", b"o\nthr"]))] == [[b"one"], [b"two"]]
