"""Durations as kube-proxy's flags write them."""

import pytest

from uproxy.kit.durations import parse_duration_s


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("30s", 30), ("5m", 300), ("1h30m", 5400), ("1.5s", 1.5), ("7", 7), ("0s", 0)],
)
def test_durations(text, seconds):
    assert parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "5 s", "-1s", "1d", "1s2", "1h-30m", "ms"])
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration_s(text)
