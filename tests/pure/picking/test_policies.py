"""Every policy of balancing: what all of them keep to, and what each is for."""

from collections import Counter
from ipaddress import ip_address
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uproxy.model.frontend import Backend
from uproxy.model.options import Balancing, Options
from uproxy.picking.backends import BackendState
from uproxy.picking.balancing.affinity import SessionAffinity
from uproxy.picking.balancing.balancer import Balancer, open_flows
from uproxy.picking.balancing.least_connections import LeastConnections
from uproxy.picking.balancing.maglev import Maglev
from uproxy.picking.balancing.policies import new_balancer
from uproxy.picking.balancing.two_choices import TwoChoices


def states(count: int) -> tuple[BackendState, ...]:
    return tuple(BackendState(Backend(ip_address("10.244.0.1") + number, 80)) for number in range(count))


def loaded(*loads: int) -> tuple[BackendState, ...]:
    made = states(len(loads))
    for state, load in zip(made, loads, strict=True):
        state.active = load
    return made


def balancer(backends, policy: Balancing, seed: int = 1) -> Balancer:
    made = new_balancer(Options(balancing=policy), open_flows, Random(seed))
    made.replace(backends, 0.0)
    return made


def client(number: int) -> str:
    return str(ip_address("203.0.113.0") + number)


@pytest.mark.parametrize("policy", Balancing)
class TestAll:
    def test_no_backends_no_pick(self, policy):
        assert balancer((), policy).pick("c", 0.0) is None

    @given(st.integers(1, 12), st.integers(0, 1000))
    def test_none_is_picked_twice_for_one_client_and_none_is_left_out(self, policy, count, seed):
        backends = states(count)
        made, tried = balancer(backends, policy, seed), []
        while (state := made.pick("c", 0.0, tried)) is not None:
            tried.append(state)
        assert Counter(tried) == Counter(backends)

    @given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(0, 1000))
    def test_who_sits_out_is_passed_over_unless_all_do(self, policy, failing, seed):
        backends = states(len(failing))
        for state, fails in zip(backends, failing, strict=True):
            if fails:
                state.failed(0.0)
        made = balancer(backends, policy, seed)
        healthy = {state for state, fails in zip(backends, failing, strict=True) if not fails}
        for number in range(20):
            assert made.pick(client(number), 0.5) in (healthy or backends)

    @given(st.data())
    def test_only_present_backends_are_picked_whatever_changes(self, policy, data):
        everybody = states(8)
        made = balancer(everybody, policy)
        for step in range(10):
            present = tuple(data.draw(st.lists(st.sampled_from(everybody), unique=True)))
            made.replace(present, float(step))
            for number in range(3):
                picked = made.pick(client(number), float(step))
                assert picked in present if present else picked is None

    def test_affinity_goes_before_it(self, policy):
        backends = states(5)
        made = SessionAffinity(balancer(backends, policy))
        made.replace(backends, 100, 0.0)
        first = made.pick("c", 0.0)
        first.active = 1000
        assert {made.pick("c", 1.0) for _ in range(20)} == {first}

    def test_it_can_be_changed_to_under_way_and_pins_stay(self, policy):
        backends = states(5)
        made = SessionAffinity(balancer(backends, Balancing.ROUND_ROBIN))
        made.replace(backends, 100, 0.0)
        first = made.pick("c", 0.0)
        made.follow(new_balancer(Options(balancing=policy), open_flows, Random(1)), 1.0)
        assert made.pick("c", 1.0) is first
        assert made.pick("d", 1.0) in backends


class TestLeastConnections:
    @given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.lists(st.booleans(), max_size=12))
    def test_none_that_could_be_used_has_fewer(self, loads, failing):
        backends = loaded(*loads)
        for state, fails in zip(backends, failing, strict=False):
            if fails:
                state.failed(0.0)
        could = [state for state in backends if not state.sits_out_until_s] or backends
        picked = balancer(backends, Balancing.LEAST_CONNECTIONS).pick("c", 0.5)
        assert picked in could
        assert picked.active == min(state.active for state in could)

    @given(st.integers(1, 12), st.integers(0, 100), st.integers(0, 20), st.booleans())
    def test_equals_take_turns(self, count, picks, start, one_sits_out):
        backends = states(count + one_sits_out)
        if one_sits_out:
            backends[0].failed(0.0)
        made = LeastConnections(open_flows, None, start)
        made.replace(backends, 0.0)
        counts = Counter(made.pick("c", 0.5) for _ in range(picks))
        shares = [counts[state] for state in backends[one_sits_out:]]
        assert max(shares) - min(shares) <= 1

    @given(st.lists(st.integers(0, 30), min_size=2, max_size=8))
    def test_open_connections_become_even(self, loads):
        backends = loaded(*loads)
        made = balancer(backends, Balancing.LEAST_CONNECTIONS)
        for _ in range(sum(max(loads) - load for load in loads) + len(loads)):
            made.pick("c", 0.0).active += 1
        assert {state.active for state in backends} == {max(loads) + 1}


class TestSlowStart:
    def made(self, backends, slow_start_s=100.0) -> LeastConnections:
        policy = LeastConnections(open_flows, slow_start_s)
        policy.replace(backends, 0.0)
        return policy

    def filled(self, policy, new, now_s: float) -> int:
        """How many of 300 open connections the new backend has got."""
        for _ in range(300):
            policy.pick("c", now_s).active += 1
        return new.active

    @pytest.mark.parametrize(("elapsed_s", "share"), [(1.0, 2), (25.0, 34), (50.0, 60), (100.0, 100)])
    def test_a_new_backend_gets_a_share_that_grows_with_time(self, elapsed_s, share):
        one, two, new = states(3)
        policy = self.made((one, two))
        policy.replace((one, two, new), 1000.0)
        assert self.filled(policy, new, 1000.0 + elapsed_s) == pytest.approx(share, abs=2)

    def test_those_that_the_service_begins_with_are_not_new(self):
        one, two, three = states(3)
        policy = self.made((one, two, three))
        assert self.filled(policy, three, 1.0) == 100

    def test_a_second_change_does_not_begin_it_anew(self):
        one, two, new = states(3)
        policy = self.made((one, two))
        policy.replace((one, two, new), 0.0)
        policy.replace((two, new), 90.0)
        policy.replace((one, two, new), 250.0)  # now `one` is new
        assert self.filled(policy, one, 300.0) == pytest.approx(60, abs=2)

    def test_who_is_new_and_idle_is_used_when_all_others_are_busy(self):
        one, new = states(2)
        policy = self.made((one,))
        one.active = 1
        policy.replace((one, new), 0.0)
        assert policy.pick("c", 0.0) is new


class TestTwoChoices:
    @given(st.lists(st.integers(0, 1000), min_size=2, max_size=12, unique=True), st.integers(0, 1000))
    def test_the_most_loaded_is_never_picked_while_two_can_be_used(self, loads, seed):
        backends = loaded(*loads)
        made = balancer(backends, Balancing.P2C, seed)
        worst = max(backends, key=lambda state: state.active)
        assert worst not in {made.pick("c", 0.0) for _ in range(30)}

    @given(st.integers(0, 1000))
    def test_loads_stay_much_closer_than_by_lot_alone(self, seed):
        backends = states(10)
        made = TwoChoices(open_flows, Random(seed))
        made.replace(backends, 0.0)
        for _ in range(1000):
            made.pick("c", 0.0).active += 1
        assert max(state.active for state in backends) - min(state.active for state in backends) <= 12

    def test_equals_are_drawn_evenly(self):
        backends = states(4)
        made = TwoChoices(open_flows, Random(1))
        made.replace(backends, 0.0)
        counts = Counter(made.pick("c", 0.0) for _ in range(4000))
        assert all(900 < counts[state] < 1100 for state in backends)


class TestMaglev:
    def made(self, backends) -> Maglev:
        policy = Maglev()
        policy.replace(backends, 0.0)
        return policy

    def of_clients(self, policy, count=2000, now_s=0.0):
        return {client(number): policy.pick(client(number), now_s) for number in range(count)}

    @given(st.integers(1, 30), st.randoms())
    def test_every_node_sends_a_client_to_the_same_backend(self, count, random):
        backends = list(states(count))
        here = self.of_clients(self.made(tuple(backends)), 50)
        random.shuffle(backends)
        assert self.of_clients(self.made(tuple(backends)), 50) == here

    @pytest.mark.parametrize("count", [2, 3, 10, 20])
    def test_clients_are_spread(self, count):
        counts = Counter(self.of_clients(self.made(states(count)), 10_000).values())
        share = 10_000 / count
        assert all(abs(counts[state] - share) < 5 * share**0.5 for state in states_of(counts, count))

    @pytest.mark.parametrize("count", [1, 3, 20, 120, 121, 300])
    def test_places_differ_by_one_at_most(self, count):
        policy = self.made(states(count))
        policy.pick("c", 0.0)
        counts = Counter(policy._table)
        assert len(counts) == count
        assert max(counts.values()) - min(counts.values()) <= 1

    @pytest.mark.parametrize("count", [2, 3, 5, 10, 20, 100])
    def test_when_one_goes_few_others_move(self, count):
        backends = states(count)
        policy = self.made(backends)
        before = self.of_clients(policy)
        policy.replace(backends[1:], 1.0)
        after = self.of_clients(policy)
        stayed = {address: state for address, state in before.items() if state is not backends[0]}
        moved = sum(after[address] is not state for address, state in stayed.items())
        assert moved <= 0.05 * len(before)
        policy.replace(backends, 2.0)
        assert self.of_clients(policy) == before

    def test_who_sits_out_loses_his_clients_alone_and_gets_them_back(self):
        backends = states(5)
        policy = self.made(backends)
        before = self.of_clients(policy)
        backends[2].failed(0.0)
        during = self.of_clients(policy, now_s=0.5)
        assert all(during[who] is state for who, state in before.items() if state is not backends[2])
        orphans = Counter(during[who] for who, state in before.items() if state is backends[2])
        assert backends[2] not in orphans
        assert len(orphans) == 4  # spread over all others, not heaped on one
        assert self.of_clients(policy, now_s=2.0) == before


def states_of(counts: Counter, count: int) -> list[BackendState]:
    assert len(counts) == count
    return list(counts)
