"""Whose turn it is, and who keeps whom."""

from collections import Counter
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uproxy.model.affinity import Pinned
from uproxy.model.frontend import Backend
from uproxy.picking.backends import SIT_OUT_FIRST_S, SIT_OUT_MAX_S, BackendState
from uproxy.picking.balancing import affinity
from uproxy.picking.balancing.affinity import SessionAffinity
from uproxy.picking.balancing.round_robin import RoundRobin


def states(count: int) -> tuple[BackendState, ...]:
    return tuple(BackendState(Backend(ip_address("10.244.0.1") + number, 80)) for number in range(count))


def robin(backends, affinity_timeout_s=None, start=0) -> SessionAffinity:
    made = SessionAffinity(RoundRobin(start))
    made.replace(backends, affinity_timeout_s, 0.0)
    return made


@given(st.integers(1, 20), st.integers(0, 100_000), st.integers(0, 200))
def test_every_backend_gets_its_share_to_within_one(count, start, picks):
    backends = states(count)
    made = robin(backends, start=start)
    counts = Counter(made.pick("c", 0.0) for _ in range(picks))
    shares = [counts[state] for state in backends]
    assert max(shares) - min(shares) <= 1


def test_no_backends_no_pick():
    assert robin(()).pick("c", 0.0) is None


def test_tried_backends_are_not_picked_again():
    backends = states(3)
    made = robin(backends)
    tried: list[BackendState] = []
    while (state := made.pick("c", 0.0, tried)) is not None:
        tried.append(state)
    assert set(tried) == set(backends)


def test_a_backend_that_sits_out_is_passed_over_until_its_time_is_up():
    bad, good = backends = states(2)
    made = robin(backends)
    bad.failed(10.0)
    assert {made.pick("c", 10.5) for _ in range(4)} == {good}
    assert {made.pick("c", 10.0 + SIT_OUT_FIRST_S) for _ in range(4)} == {bad, good}


def test_when_all_sit_out_one_is_tried_all_the_same():
    backends = states(2)
    made = robin(backends)
    for state in backends:
        state.failed(10.0)
    assert made.pick("c", 10.1) in backends


def test_the_turn_goes_on_over_a_change():
    one, two, three, four = states(4)
    made = robin((one, two, three))
    assert made.pick("c", 0.0) is one
    made.replace((one, two, three, four), None, 0.0)
    assert [made.pick("c", 0.0) for _ in range(4)] == [two, three, four, one]


def test_the_turn_goes_on_when_the_next_one_is_removed():
    one, two, three = states(3)
    made = robin((one, two, three))
    made.pick("c", 0.0)
    made.replace((one, three), None, 0.0)
    assert [made.pick("c", 0.0) for _ in range(2)] == [three, one]


class TestAffinity:
    def test_a_client_keeps_its_backend(self):
        made = robin(states(3), 100)
        first = made.pick("a", 0.0)
        made.pick("b", 1.0)
        assert made.pick("a", 2.0) is first

    def test_the_timeout_counts_from_the_last_use(self):
        made = robin(states(3), 100)
        first = made.pick("a", 0.0)
        assert made.pick("a", 90.0) is first
        assert made.pick("a", 180.0) is first
        assert made.pick("a", 281.0) is not first

    def test_a_changed_timeout_holds_at_once(self):
        backends = states(3)
        made = robin(backends, 100)
        first = made.pick("a", 0.0)
        made.replace(backends, 10, 0.0)
        assert made.pick("a", 20.0) is not first

    def test_a_backend_that_goes_away_releases_its_clients(self):
        one, two = states(2)
        made = robin((one, two), 100)
        first = made.pick("a", 0.0)
        other = two if first is one else one
        made.replace((other,), 100, 0.0)
        assert made.pick("a", 1.0) is other
        made.replace((one, two), 100, 0.0)
        assert made.pick("a", 2.0) is other

    def test_a_backend_that_refuses_releases_its_client_for_good(self):
        backends = states(2)
        made = robin(backends, 100)
        first = made.pick("a", 0.0)
        first.failed(1.0)
        second = made.pick("a", 1.0, [first])
        assert second is not first
        first.answered()
        assert made.pick("a", 2.0) is second

    def test_no_more_clients_are_remembered_than_the_limit(self, monkeypatch):
        monkeypatch.setattr(affinity, "AFFINITY_CLIENTS_MAX", 10)
        made = robin(states(3), 100)
        for number in range(1000):
            made.pick(f"client {number}", 0.0)
        assert len(made._pins) <= 10

    def test_clients_of_somebody_else_stay_where_they_were(self):
        one, two = states(2)
        made = robin((one, two), 100)
        others = [
            Pinned("early", two.backend, 90.0),
            Pinned("a", one.backend, 10.0),
            Pinned("b", one.backend, 10.0),
        ]
        gone = Pinned("gone", Backend(ip_address("10.244.9.9"), 80), 0.0)
        here = made.pick("a", 195.0)  # later than with them
        made.pin([*others, gone], 200.0)
        assert [made.pick(client, 200.0) for client in ("early", "b", "a")] == [two, one, here]
        assert {one.client: one.idle_s for one in made.pinned(205.0)} == {"early": 5.0, "b": 5.0, "a": 5.0}

    def test_clients_that_were_away_too_long_are_not_told(self):
        made = robin(states(2), 100)
        made.pick("a", 0.0)
        made.pick("b", 50.0)
        assert [its.client for its in made.pinned(120.0)] == ["b"]
        made.pin([Pinned("c", made.backends[0].backend, 101.0)], 120.0)
        assert [its.client for its in made.pinned(120.0)] == ["b"]


class TestSittingOut:
    def test_each_failure_doubles_the_time_up_to_a_limit(self):
        [state] = states(1)
        now_s, times_s = 0.0, []
        for _ in range(8):
            state.failed(now_s)
            times_s.append(state.sits_out_until_s - now_s)
            now_s = state.sits_out_until_s
        assert times_s == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
        assert times_s[-1] == SIT_OUT_MAX_S

    def test_failures_of_one_outage_count_once(self):
        [state] = states(1)
        for _ in range(50):
            state.failed(5.0)
        assert state.sits_out_until_s == 5.0 + SIT_OUT_FIRST_S
        assert state.dial_failures == 50

    def test_success_forgives(self):
        [state] = states(1)
        state.failed(0.0)
        state.failed(1.0)
        state.answered()
        state.failed(100.0)
        assert state.sits_out_until_s == pytest.approx(100.0 + SIT_OUT_FIRST_S)
