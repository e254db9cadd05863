import pytest

from uproxy.sources.kubernetes.timing import Backoff, Timing


def test_waits_double_up_to_half_a_minute():
    backoff = Backoff(lambda: 0.0)
    assert [backoff.wait_s() for _ in range(8)] == [0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]


def test_chance_adds_up_to_as_much_again():
    assert Backoff(lambda: 1.0).wait_s() == 1.6


def test_a_success_begins_anew():
    backoff = Backoff(lambda: 0.0)
    assert backoff.fresh
    backoff.wait_s()
    assert not backoff.fresh
    backoff.reset()
    assert backoff.fresh
    assert backoff.wait_s() == 0.8


def test_what_the_server_asks_for_counts_but_not_for_ever():
    backoff = Backoff(lambda: 0.0)
    assert [backoff.wait_s(5.0), backoff.wait_s(3600.0), backoff.wait_s()] == [5.0, 60.0, 3.2]


@pytest.mark.parametrize(("chance", "timeout_s"), [(0.0, 300), (0.5, 450), (1.0, 600)])
def test_a_watch_lasts_five_to_ten_minutes(chance, timeout_s):
    assert Timing(chance=lambda: chance).watch_timeout_s() == timeout_s
