"""Which path's turn it is, and how long is left."""

import io

from uproxy.bench.progress import Progress, clock, line_of
from uproxy.bench.run import in_order


def test_each_round_begins_one_path_further_on():
    assert [in_order("abc", number) for number in range(4)] == [
        ("a", "b", "c"),
        ("b", "c", "a"),
        ("c", "a", "b"),
        ("a", "b", "c"),
    ]


def test_over_as_many_rounds_as_paths_every_path_has_every_place():
    places = list(zip(*(in_order("abcd", number) for number in range(4)), strict=True))
    assert all(sorted(place) == ["a", "b", "c", "d"] for place in places)


def test_no_paths_have_an_order_too():
    assert in_order([], 3) == ()


def test_the_bar_tells_the_time_left_from_what_the_rest_took():
    assert line_of(0.25, 30, "rr") == "[######..................]  25%, 1:30 left  rr"
    assert line_of(0.0, 0, "starting") == "[........................]   0%  starting"
    assert line_of(1.3, 100, "rr").startswith("[########################] 100%, 0:00 left")


def test_the_clock_has_minutes_and_seconds():
    assert (clock(7.4), clock(-1), clock(750)) == ("0:07", "0:00", "12:30")


def test_nothing_is_shown_where_nobody_watches():
    stream = io.StringIO()
    with Progress(10, stream) as progress:
        progress.show("rr")
        progress.done(5)
    assert stream.getvalue() == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_one_line_rewritten_and_cleared():
    stream = Terminal()
    with Progress(10, stream) as progress:
        progress.done(5)
        progress.show("crr-32, uproxy-bind")
    assert stream.getvalue().count("\n") == 0
    assert "50%" in stream.getvalue()
    assert stream.getvalue().endswith("\r\x1b[K")
