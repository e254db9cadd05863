"""Who moves, and that nobody moves to and fro."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uproxy.handoff.decision import (
    COLD_FOR_S,
    HOT_BYTES_PER_S,
    HOT_CONNECTIONS_PER_S,
    HOT_FOR_S,
    MOVES_PER_MINUTE,
    STAY_S,
    Decision,
    Rates,
)
from uproxy.model.names import Protocol, ServicePortName

HOT = Rates(HOT_CONNECTIONS_PER_S * 2, 0.0)
COLD = Rates(1.0, 1000.0)


def name(number: int) -> ServicePortName:
    return ServicePortName("default", f"web-{number}", "", Protocol.TCP)


WEB = name(0)


class Clock:
    """A decision that is asked once a second."""

    def __init__(self) -> None:
        self.decision = Decision()
        self.now_s = 1000.0
        self.log: list[tuple[float, ServicePortName, bool]] = []

    def pass_by(self, seconds: float, rates: dict[ServicePortName, Rates], load: float = 0.1) -> None:
        for _ in range(round(seconds)):
            self.now_s += 1.0
            moves = self.decision.moves(self.now_s, rates, load)
            self.log += [(self.now_s, move.name, move.to_kernel) for move in moves]


@pytest.mark.parametrize(
    "rates", [Rates(HOT_CONNECTIONS_PER_S, 0.0), Rates(0.0, HOT_BYTES_PER_S)], ids=["connections", "bytes"]
)
def test_who_is_hot_for_long_enough_moves_and_no_other(rates):
    clock = Clock()
    others = {name(number): COLD for number in range(1, 100)}
    clock.pass_by(20, {WEB: COLD, **others})
    assert clock.log == []
    stepped_s = clock.now_s
    clock.pass_by(20, {WEB: rates, **others})
    assert clock.log == [(stepped_s + HOT_FOR_S + 1, WEB, True)]


def test_a_short_burst_moves_nobody():
    clock = Clock()
    for _ in range(20):
        clock.pass_by(HOT_FOR_S - 1, {WEB: HOT})
        clock.pass_by(1, {WEB: COLD})
    assert clock.log == []


def test_it_comes_back_once_it_was_cold_for_long_enough_also_without_any_traffic():
    clock = Clock()
    clock.pass_by(120, {WEB: HOT})
    ended_s = clock.now_s
    clock.pass_by(120, {})
    assert [(when - ended_s, kernel) for when, _, kernel in clock.log[1:]] == [(COLD_FOR_S + 1, False)]


def test_nobody_moves_twice_within_the_stay():
    clock = Clock()
    clock.pass_by(HOT_FOR_S + 1, {WEB: HOT})
    clock.pass_by(STAY_S * 3, {WEB: COLD})
    (there_s, _, _), (back_s, _, _) = clock.log
    assert back_s - there_s == STAY_S


def test_a_busy_proxy_gives_up_its_greatest_burden():
    clock = Clock()
    small = Rates(HOT_CONNECTIONS_PER_S / 20, 0.0)
    rates = {WEB: Rates(HOT_CONNECTIONS_PER_S / 3, 0.0), name(1): small, name(2): small}
    clock.pass_by(30, rates, load=0.5)
    assert clock.log == []
    clock.pass_by(30, rates, load=0.9)
    assert [(who, kernel) for _, who, kernel in clock.log] == [(WEB, True)]
    # Its going takes the load off; what it has stays above what it came with, so it stays away.
    clock.pass_by(300, rates, load=0.2)
    assert len(clock.log) == 1


def test_moves_in_a_minute_are_bounded_and_the_hottest_go_first():
    clock = Clock()
    rates = {name(number): Rates(HOT_CONNECTIONS_PER_S + number, 0.0) for number in range(50)}
    clock.pass_by(HOT_FOR_S + 1, rates)
    assert [who for _, who, _ in clock.log] == [name(49 - rank) for rank in range(MOVES_PER_MINUTE)]
    clock.pass_by(50, rates)
    assert len(clock.log) == MOVES_PER_MINUTE
    clock.pass_by(60 * 5, rates)
    assert len(clock.log) == 50


def test_a_move_that_failed_is_not_tried_again_at_once():
    clock = Clock()
    clock.pass_by(HOT_FOR_S, {WEB: HOT})
    (move,) = clock.decision.moves(clock.now_s + 1, {WEB: HOT}, 0.1)
    clock.decision.failed(move, clock.now_s + 1)
    clock.pass_by(STAY_S, {WEB: HOT})
    assert clock.log == []
    clock.pass_by(5, {WEB: HOT})
    assert len(clock.log) == 1


def test_who_is_never_warm_is_not_remembered():
    clock = Clock()
    clock.pass_by(10, {name(number): COLD for number in range(1000)})
    assert clock.decision._cases == {}


heats = st.lists(
    st.dictionaries(st.integers(0, 5), st.floats(0.0, 3.0), max_size=6), min_size=50, max_size=400
)


@given(heats, st.floats(0.0, 1.0))
def test_whatever_comes_nobody_flaps(seconds, load):
    """Directions alternate, and a stay lies between any two moves of one Service port."""
    clock = Clock()
    for heats_now in seconds:
        rates = {name(who): Rates(heat * HOT_CONNECTIONS_PER_S, 0.0) for who, heat in heats_now.items()}
        clock.pass_by(1, rates, load)
    last: dict[ServicePortName, tuple[float, bool]] = {}
    for when_s, who, to_kernel in clock.log:
        before_s, was = last.get(who, (when_s - STAY_S, False))
        assert to_kernel is not was
        assert when_s - before_s >= STAY_S
        last[who] = when_s, to_kernel
    minutes = Counter(int(when_s // 60) for when_s, _, _ in clock.log)
    assert all(count <= 2 * MOVES_PER_MINUTE for count in minutes.values())


@given(st.lists(st.floats(0.8, 1.25), min_size=300, max_size=600))
def test_around_the_threshold_it_moves_once(heats):
    clock = Clock()
    for heat in heats:
        clock.pass_by(1, {WEB: Rates(heat * HOT_CONNECTIONS_PER_S, 0.0)})
    assert len(clock.log) <= 1
