"""Who waits, in which order, and for what it is worth waiting."""

from ipaddress import ip_address

from uproxy.model.closing import CloseReason, DialFailure
from uproxy.model.frontend import Backend
from uproxy.model.names import Protocol, ServicePortName
from uproxy.model.options import Options
from uproxy.picking.attempts import Attempts
from uproxy.picking.backends import BackendState
from uproxy.picking.routes import Route
from uproxy.picking.stats import PortStats
from uproxy.picking.waiting import HELD_MAX, Wait, WaitingRoom

NAME = ServicePortName("default", "web", "", Protocol.TCP)


def states(*loads: int) -> tuple[BackendState, ...]:
    made = tuple(BackendState(Backend(ip_address("10.244.0.1") + n, 80)) for n in range(len(loads)))
    for state, load in zip(made, loads, strict=True):
        state.taken = load
    return made


def route(backends, **options) -> Route:
    made = Route(
        NAME, PortStats(), WaitingRoom(), Options(**options), lambda some: [one.taken for one in some]
    )
    made.balancer.replace(backends, None, 0.0)
    return made


class Client:
    """Has a place as soon as there is one of `places`."""

    def __init__(self, room, queue, places, wait=Wait.PLACE) -> None:
        self.wait = wait
        self._room, self._queue, self._places = room, queue, places
        room.enter(queue, self)

    def try_again(self, _now_s):
        if not self._places:
            return False
        self._places.pop()
        self._room.leave(self._queue, self)
        self._room.serve(0.0)  # as one whose dial fails at once
        return True


class TestRoom:
    def test_first_in_first_out_as_many_as_there_are_places(self):
        room, places = WaitingRoom(), []
        clients = [Client(room, "v4", places) for _ in range(5)]
        room.serve(0.0)
        assert room.numbers[Wait.PLACE] == 5
        places += [1, 2]
        room.serve(0.0)
        assert list(room._queues["v4"]) == clients[2:]

    def test_who_cannot_go_on_does_not_stop_another_route(self):
        room = WaitingRoom()
        Client(room, "v4", [])
        Client(room, "v6", [1])
        room.serve(0.0)
        assert list(room._queues) == ["v4"]

    def test_thousands_can_go_on_at_once(self):
        room = WaitingRoom()
        places = list(range(5000))
        for _ in places:
            Client(room, "v4", places)
        room.serve(0.0)
        assert not room
        assert room.numbers == {Wait.PLACE: 0, Wait.ENDPOINT: 0}


class TestPlaces:
    def test_a_full_endpoint_is_not_picked(self):
        one, two = states(2, 1)
        made = route((one, two), max_connections_per_endpoint=2)
        assert {made.pick("c", 0.0) for _ in range(5)} == {two}
        two.taken = 2
        assert made.pick("c", 0.0) is None

    def test_rather_a_place_at_a_good_one_than_a_dial_of_one_that_sits_out(self):
        full, bad = states(1, 0)
        bad.failed(0.0)
        made = route((full, bad), max_connections_per_endpoint=1)
        assert made.pick("c", 0.5) is None
        full.failed(0.0)
        assert made.pick("c", 0.5) is bad
        assert made.pick("c", 1.5) is bad

    def test_affinity_does_not_go_beyond_the_limit(self):
        backends = states(0, 0)
        made = route(backends, max_connections_per_endpoint=1)
        made.balancer.replace(backends, 100, 0.0)
        first = made.pick("c", 0.0)
        first.taken = 1
        assert made.pick("c", 0.0) not in (None, first)


class TestDialling:
    def dialling(self, made: Route) -> Attempts:
        return Attempts(made, "c", 0.0, 4.0)

    def test_the_only_one_may_take_all_the_time_that_is_left(self):
        [only] = states(0)
        made = self.dialling(route((only,)))
        assert made.bound_s(only, 1.0, 0.5) == 3.5
        only.failed(0.5)
        assert made.bound_s(only, 1.0, 0.6) == 1.0  # it is known to fail
        assert made.bound_s(only, 1.0, 2.0) == 2.0
        assert made.bound_s(only, 1.0, 3.9) == 1.0

    def test_one_of_several_may_not_and_the_last_of_them_may(self):
        first, second = states(0, 0)
        made = self.dialling(route((first, second)))
        assert made.bound_s(first, 1.0, 0.0) == 1.0
        made.failed(first, DialFailure.TIMEOUT, 1.0)
        assert made.bound_s(second, 1.0, 1.0) == 3.0

    def test_without_options_nobody_waits(self):
        assert self.dialling(route(())).wait_or_end(0.0) is CloseReason.NO_ENDPOINTS

    def test_for_an_endpoint_while_there_is_room(self):
        made = route((), hold_s=1.0)
        assert self.dialling(made).wait_or_end(0.0) is Wait.ENDPOINT
        made.room.numbers[Wait.ENDPOINT] = HELD_MAX
        assert self.dialling(made).wait_or_end(0.0) is CloseReason.QUEUE_FULL

    def test_for_a_place_while_there_is_room(self):
        made = route(states(1), max_connections_per_endpoint=1, queue_max=1)
        assert self.dialling(made).wait_or_end(0.0) is Wait.PLACE
        made.room.numbers[Wait.PLACE] = 1
        assert self.dialling(made).wait_or_end(0.0) is CloseReason.QUEUE_FULL

    def test_not_for_endpoints_that_have_failed(self):
        made = route(backends := states(0), max_connections_per_endpoint=1, queue_max=1, hold_s=1.0)
        dialling = self.dialling(made)
        dialling.failed(backends[0], DialFailure.REFUSED, 0.0)
        assert dialling.next(0.0) is None
        assert dialling.wait_or_end(0.0) is CloseReason.DIAL_FAILED

    def test_waiting_takes_nothing_from_the_time_for_dialling(self):
        made = route(backends := states(1), max_connections_per_endpoint=1, queue_max=1)
        dialling = self.dialling(made)
        left_s = dialling.pause(1.0)
        assert left_s == 3.0
        backends[0].taken = 0
        assert dialling.next(1e6) is backends[0]
        dialling.resume(1e6, left_s)
        assert dialling.next(1e6 + 2.9) is backends[0]
        assert dialling.next(1e6 + 3.0) is None
