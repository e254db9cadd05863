"""How old connections may get."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from uproxy.dataplane.relay.age import grace_s, limit_s, sweep_every_s

ages = st.floats(0.1, 365 * 86400.0)
times = st.floats(0.0, 1e8)


@given(ages, times)
def test_ten_percent_more_or_less_and_always_the_same(age_s, begun_s):
    limit = limit_s(age_s, begun_s)
    assert 0.9 * age_s <= limit <= 1.1 * age_s
    assert limit_s(age_s, begun_s) == limit
    assert limit + grace_s(age_s) <= 1.2001 * age_s


def test_connections_that_begin_together_do_not_end_together():
    limits = sorted(limit_s(100.0, 5000.0 + number * 20e-6) for number in range(1000))
    gaps = [after - before for before, after in pairwise(limits)]
    assert limits[-1] - limits[0] > 19.5
    assert max(gaps) < 0.2


@given(ages)
def test_there_are_passes_between_the_limit_and_the_end(age_s):
    assert sweep_every_s(age_s) <= max(grace_s(age_s) / 2, 0.05)
