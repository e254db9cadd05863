"""The C engine's connections: dials that fail, peers that reset, what is reported and what is counted."""

import errno
import os
import random
import select
import socket
import struct
import threading
from importlib import import_module

import pytest

from tests.loop.dataplane.engine_rig import (
    PATIENCE_S,
    Stage,
    descriptors,
    many_descriptors,
    wait,
    was_reset,
)

pytest.importorskip("uproxy.dataplane.relay._engine", reason="no native relay")

CLIENT_EOF, BACKEND_EOF, CLIENT_RESET, BACKEND_RESET, SHUTDOWN = 0, 1, 2, 3, 6
SHORT_MS = 50


@pytest.fixture(params=[1, 2, 8])
def stage(request):
    made = Stage(workers=request.param)
    yield made
    made.close()


@pytest.fixture
def hasty():
    """Whose dials time out soon."""
    made = Stage(connect_ms=SHORT_MS)
    yield made
    made.close()


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class TestDials:
    def test_a_refused_dial_leaves_the_client_with_the_caller(self, stage):
        client, descriptor = stage.client()
        refusing = stage.refusing()
        before = descriptors()
        assert stage.begin(descriptor, refusing) == errno.ECONNREFUSED
        assert (descriptors(), stage.engine.live()) == (before, 0)
        assert stage.begin(descriptor) == 0
        client.send(b"the second took it")
        assert stage.server().recv(100) == b"the second took it"
        assert stage.engine.collect()[1] == [(stage.backend, 1, 1)]

    def test_one_that_takes_too_long_is_reported_with_its_client(self, hasty):
        client, descriptor = hasty.client()
        hole = hasty.black_hole()
        assert hasty.begin(descriptor, hole) == 0
        [report] = hasty.reports(1)
        assert (report.failed_dial, report.client_fd, report.code) == (True, descriptor, errno.ETIMEDOUT)
        assert (report.port, report.backend, report.client) == (hasty.port, hole, "198.51.100.1")
        assert SHORT_MS / 1000 <= report.lasted_s < PATIENCE_S
        wait(lambda: hasty.engine.live() == 0)
        assert hasty.begin(descriptor) == 0  # the next one
        client.send(b"x")
        assert hasty.server().recv(1) == b"x"

    def test_thousands_under_way_time_out_oldest_first(self):
        count = min(2000, (many_descriptors() - 200) // 2)
        before = descriptors()
        stage = Stage(workers=1, connect_ms=500)
        hole = stage.black_hole()
        clients = [socket.socket().detach() for _ in range(count)]
        assert {stage.begin(client, hole) for client in clients} == {0}
        reports = stage.reports(count)
        assert [report.client_fd for report in reports] == clients
        assert {report.code for report in reports} == {errno.ETIMEDOUT}
        wait(lambda: stage.engine.live() == 0)
        for client in clients:
            os.close(client)
        stage.close()
        assert descriptors() == before

    def test_some_may_take_longer_and_all_end_when_they_are_due(self):
        count = min(500, (many_descriptors() - 200) // 2)
        chance = random.Random(1)
        stage = Stage(workers=1, connect_ms=300)
        hole = stage.black_hole()
        bounds_ms = {socket.socket().detach(): chance.choice((0, 0, 400, 700, 1000)) for _ in range(count)}
        for client, bound_ms in bounds_ms.items():
            assert stage.begin(client, hole, bound_ms=bound_ms) == 0
        reports = stage.reports(count)
        assert {report.code for report in reports} == {errno.ETIMEDOUT}
        for report in reports:
            assert report.lasted_s * 1000 >= (bounds_ms[report.client_fd] or 300)
            os.close(report.client_fd)
        wait(lambda: stage.engine.live() == 0)
        stage.close()

    def test_a_client_that_resets_meanwhile_is_given_back_all_the_same(self, hasty):
        client, descriptor = hasty.client()
        assert hasty.begin(descriptor, hasty.black_hole()) == 0
        reset(client)
        [report] = hasty.reports(1)
        assert (report.failed_dial, report.client_fd) == (True, descriptor)
        hasty.module.refuse(descriptor)

    def test_a_header_waits_for_a_slow_backend_and_goes_first(self):
        stage = Stage(connect_ms=int(PATIENCE_S * 1000))
        listener = stage.own(socket.create_server(("127.0.0.1", 0), backlog=0))
        filler = stage.own(socket.create_connection(listener.getsockname()))
        client, descriptor = stage.client()
        client.send(b"and the rest")
        slow = stage.engine.add_backend(*listener.getsockname())
        assert stage.begin(descriptor, slow, header=b"first ") == 0
        listener.accept()[0].close()  # there is room now, and the kernel tries again within a second
        filler.close()
        listener.settimeout(PATIENCE_S)
        server = stage.own(listener.accept()[0])
        server.settimeout(PATIENCE_S)
        assert server.recv(18, socket.MSG_WAITALL) == b"first and the rest"
        server.send(b"heard")
        assert client.recv(10) == b"heard"
        [(_, to_backend, to_client, *_)], _ = stage.engine.collect()
        assert (to_backend, to_client) == (12, 5)
        stage.close()

    def test_a_client_that_resets_before_a_slow_backend_answers(self):
        stage = Stage(connect_ms=int(PATIENCE_S * 1000))
        listener = stage.own(socket.create_server(("127.0.0.1", 0), backlog=0))
        filler = stage.own(socket.create_connection(listener.getsockname()))
        client, descriptor = stage.client()
        client.send(b"never mind")
        assert stage.begin(descriptor, stage.engine.add_backend(*listener.getsockname())) == 0
        reset(client)
        listener.accept()[0].close()  # there is room now, and the kernel tries again within a second
        filler.close()
        listener.settimeout(PATIENCE_S)
        server, _ = listener.accept()
        [report] = stage.reports(1)
        assert (report.failed_dial, report.code) == (False, CLIENT_RESET)
        with pytest.raises(ConnectionResetError):
            read_all(server)
        server.close()
        stage.close()

    def test_a_backend_that_accepts_and_resets_at_once(self, stage):
        stop = threading.Event()

        def slam() -> None:
            stage.back.settimeout(0.05)
            while not stop.is_set():
                try:
                    reset(stage.back.accept()[0])
                except TimeoutError:
                    continue

        thread = threading.Thread(target=slam)
        thread.start()
        joined = 0
        for _ in range(200):
            client, descriptor = stage.client()
            client.send(b"hello")
            error = stage.begin(descriptor)
            if error:  # the reset was faster than connect(2)
                assert error == errno.ECONNRESET
                stage.module.refuse(descriptor)
            joined += not error
            assert was_reset(client)
            client.close()
        stop.set()
        thread.join()
        reports = stage.reports(joined)
        assert {report.code for report in reports} <= {BACKEND_RESET}
        assert stage.engine.live() == 0


class TestReset:
    def test_those_of_one_backend_alone_and_done_when_it_returns(self, stage):
        other = stage.own(socket.create_server(("127.0.0.1", 0), backlog=100))
        slot = stage.engine.add_backend(*other.getsockname())
        kept = [stage.pair() for _ in range(10)]
        cut = []
        for _ in range(10):
            client, descriptor = stage.client()
            assert stage.begin(descriptor, slot) == 0
            cut.append((client, stage.own(other.accept()[0])))
        stage.engine.reset(SHUTDOWN, slot)
        assert stage.engine.live() == 10
        assert {report.backend for report in stage.reports(10)} == {slot}
        assert all(was_reset(side) for pair in cut for side in pair)
        for client, server in kept:
            client.send(b"x")
            assert server.recv(1) == b"x"

    def test_dials_under_way_too(self, stage):
        hole = stage.black_hole()
        clients = []
        for _ in range(10):
            client, descriptor = stage.client()
            assert stage.begin(descriptor, hole) == 0
            clients.append(client)
        stage.engine.reset(SHUTDOWN, hole)
        assert (stage.engine.live(), stage.engine.descriptors()) == (0, 0)
        assert all(was_reset(client) for client in clients)
        [(_, _, _, closes, connects, _)], backends = stage.engine.collect()
        assert (closes[SHUTDOWN], sum(connects)) == (10, 0)
        assert backends == [(hole, 0, 0)]


class TestReports:
    def test_an_end_says_who_and_how_much(self, stage):
        client, server = stage.pair()
        client.send(b"four")
        assert server.recv(10) == b"four"
        server.send(b"eleven byte")
        assert client.recv(20) == b"eleven byte"
        server.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
        client.close()
        [report] = stage.reports(1)
        assert not report.failed_dial
        assert (report.code, report.client, report.bytes_to_backend, report.bytes_to_client) == (
            BACKEND_EOF,
            "198.51.100.1",
            4,
            11,
        )

    def test_ends_are_not_reported_unless_asked_for(self):
        stage = Stage(report_ends=False)
        for sock in stage.pair():
            sock.close()
        wait(lambda: stage.engine.live() == 0)
        assert select.select([stage.engine.report_fd], [], [], 0) == ([], [], [])
        assert stage.engine.reports() == []
        stage.close()

    def test_those_that_nobody_took_are_released_with_their_clients(self, hasty):
        before = descriptors()
        hole = hasty.black_hole()
        clients = []
        for _ in range(10):
            client, descriptor = hasty.client()
            assert hasty.begin(descriptor, hole) == 0
            clients.append(client)
        wait(lambda: hasty.engine.live() == 0)
        hasty.engine.close()
        assert all(was_reset(client) for client in clients)
        hasty.close()
        assert descriptors() <= before

    def test_a_client_address_is_cut_to_what_there_is_room_for(self, stage):
        _, descriptor = stage.client()
        assert stage.begin(descriptor, address="x" * 1000) == 0
        stage.engine.reset(SHUTDOWN, -1)
        assert [report.client for report in stage.reports(1)] == ["x" * 63]


def test_counts_are_exact_while_threads_work_and_somebody_reads_them(stage):
    """Peers in threads of their own, exact byte counts, and `collect` all the while."""
    each, sizes = 40, random.Random(4)
    plans = [
        [(sizes.randrange(1, 50_000), sizes.randrange(1, 50_000)) for _ in range(each)] for _ in range(4)
    ]
    expected = [sum(plan[way] for plans_of in plans for plan in plans_of) for way in (0, 1)]
    queue = [[(stage.pair(), plan) for plan in plans_of] for plans_of in plans]
    failures: list[BaseException] = []

    def converse(mine) -> None:
        try:
            for (client, server), (up, down) in mine:
                one_exchange(client, server, up, down)
        except (OSError, AssertionError) as error:
            failures.append(error)

    workers = [threading.Thread(target=converse, args=(mine,)) for mine in queue]
    for thread in workers:
        thread.start()
    seen = Totals()
    while any(thread.is_alive() for thread in workers):
        seen.add(stage.engine.collect())
        assert seen.active >= 0
    assert failures == []
    wait(lambda: stage.engine.live() == 0)
    seen.add(stage.engine.collect())
    connections = 4 * each
    assert (seen.bytes, seen.connects, seen.joined, seen.active) == (expected, connections, connections, 0)
    assert seen.closes[CLIENT_EOF] == sum(seen.closes) == connections
    reports = stage.reports(connections)
    assert [sum(report[way] for report in reports) for way in (6, 7)] == expected
    assert stage.engine.collect() == ([], [])


class Totals:
    """What `collect` told, added up."""

    def __init__(self) -> None:
        self.bytes = [0, 0]
        self.closes = [0] * len(import_module("uproxy.dataplane.relay._engine").REASONS)
        self.connects = self.joined = self.active = 0

    def add(self, collected) -> None:
        ports, backends = collected
        for _, up, down, closes, connects, _ in ports:
            self.bytes = [self.bytes[0] + up, self.bytes[1] + down]
            self.closes = [a + b for a, b in zip(self.closes, closes, strict=True)]
            self.connects += sum(connects)
        for _, joined, active in backends:
            self.joined += joined
            self.active = active


def one_exchange(client: socket.socket, server: socket.socket, up: int, down: int) -> None:
    client.sendall(bytes(up))
    client.shutdown(socket.SHUT_WR)
    assert read_all(server) == up
    server.sendall(bytes(down))
    server.close()
    assert read_all(client) == down
    client.close()


def read_all(sock: socket.socket) -> int:
    count = 0
    while piece := sock.recv(1 << 16):
        count += len(piece)
    return count
