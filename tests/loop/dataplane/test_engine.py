"""The C engine's life, and its manners towards those who use it wrongly: it raises, and does not crash."""

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.loop.dataplane.engine_rig import (
    OPTIONS,
    Stage,
    descriptors,
    many_descriptors,
    new_engine,
    threads,
    wait,
    was_reset,
)

pytest.importorskip("uproxy.dataplane.relay._engine", reason="no native relay")

ROOT = Path(__file__).parents[3]
SHUTDOWN = 6
WRONG = (TypeError, ValueError, OverflowError)


@pytest.fixture
def stage():
    made = Stage()
    yield made
    made.close()


class TestWrongArguments:
    @pytest.mark.parametrize(
        "changes",
        [
            {"workers": 0},
            {"workers": 65},
            {"workers": "2"},
            {"idle_ms": None},
            {"connect_bounds_s": [0.1]},
            {"connect_bounds_s": (0.1,) * 17},
            {"connect_bounds_s": ("soon",)},
            {"local_ports": (1,)},
            {"local_ports": 1},
            {"unheard_of": 1},
        ],
        ids=str,
    )
    def test_options(self, changes):
        before = descriptors()
        with pytest.raises(WRONG):
            new_engine(**changes)
        wait(lambda: threads() == 0)
        assert descriptors() == before

    def test_options_missing(self, stage):
        with pytest.raises(WRONG):
            stage.module.Engine()

    @pytest.mark.parametrize(
        "wrong",
        [
            (),
            (0, 0, 0, ""),
            (0, 0, 0, "", 0, b""),
            (0, 0, 0, "", 0, b"", False, 0, 0),
            ("3", 0, 0, "", 0, b"", False, 0),
            (None, 0, 0, "", 0, b"", False, 0),
            (2**80, 0, 0, "", 0, b"", False, 0),
            (2**32 + 2**20, 0, 0, "", 0, b"", False, 0),
            (0, 1, 0, "", 0, b"", False, 0),
            (0, 0, 1, "", 0, b"", False, 0),
            (0, -1, 0, "", 0, b"", False, 0),
            (0, 0, -1, "", 0, b"", False, 0),
            (0, 2**32, 0, "", 0, b"", False, 0),
            (0, 0, 0, b"", 0, b"", False, 0),
            (0, 0, 0, "\udc80", 0, b"", False, 0),
            (0, 0, 0, "", -1, b"", False, 0),
            (0, 0, 0, "", 0, "", False, 0),
            (0, 0, 0, "", 0, None, False, 0),
            (0, 0, 0, "", 0, bytes(257), False, 0),
            (0, 0, 0, "", 0, b"", False, -1),
            (0, 0, 0, "", 0, b"", False, 2**32),
        ],
        ids=repr,
    )
    def test_begin_raises_and_leaves_the_client_with_the_caller(self, stage, wrong):
        client, descriptor = stage.client()
        arguments = (descriptor, *wrong[1:]) if wrong[:1] == (0,) else wrong
        with pytest.raises(WRONG):
            stage.engine.begin(*arguments)
        os.write(descriptor, b"still mine")
        assert client.recv(100) == b"still mine"
        stage.module.refuse(descriptor)

    @pytest.mark.parametrize(
        "address",
        [
            (),
            ("127.0.0.1",),
            ("nobody", 1),
            (b"127.0.0.1", 1),
            ("::1%lo", 1),
            ("127.0.0.1", 65536),
            ("127.0.0.1", -1),
        ],
    )
    def test_add_backend(self, stage, address):
        with pytest.raises(WRONG):
            stage.engine.add_backend(*address)
        assert stage.engine.add_backend("::1", 1) == stage.backend + 1

    @pytest.mark.parametrize("slot", [1, -1, 2**32, 2**80, "0", None, 0.0])
    @pytest.mark.parametrize("method", ["drop_port", "drop_backend", "joined"])
    def test_slots(self, stage, method, slot):
        with pytest.raises(WRONG):
            getattr(stage.engine, method)(slot)

    @pytest.mark.parametrize("arguments", [(), (0,), (-1, 0), (99, 0), ("idle", 0), (0, None)])
    def test_reset(self, stage, arguments):
        with pytest.raises(WRONG):
            stage.engine.reset(*arguments)

    @pytest.mark.parametrize("backends", [0, (0,), [1], [-2], [2**80], ["0"], [None]])
    def test_open(self, stage, backends):
        with pytest.raises(WRONG):
            stage.engine.open(backends)
        assert stage.engine.open([-1, stage.backend]) == [0, 0]

    @pytest.mark.parametrize(
        "arguments", [(), (0, True), (1, True, 0), (-1, True, 0), ("0", True, 0), (0, True, -1)]
    )
    def test_set_port(self, stage, arguments):
        with pytest.raises(WRONG):
            stage.engine.set_port(*arguments)

    def test_functions_on_sockets(self, stage):
        for function in (stage.module.accept, stage.module.refuse):
            for wrong in ("0", None, 2**32 + 2**20, 2**80):
                with pytest.raises(WRONG):
                    function(wrong)
        with pytest.raises(OSError, match="Bad file descriptor"):
            stage.module.accept(-1)
        stage.module.refuse(-1)
        assert stage.module.destination(-1, 4) is None
        assert stage.module.destination(-1, 6) is None

    def test_a_client_that_is_no_socket_is_carried_until_the_end(self, stage):
        reader, writer = os.pipe()
        assert stage.begin(reader) == 0
        assert stage.begin(-1) == 0
        stage.engine.reset(SHUTDOWN, -1)
        assert stage.engine.live() == 0
        with pytest.raises(BrokenPipeError):
            os.write(writer, b"x")
        os.close(writer)


class TestLife:
    def test_a_closed_engine_refuses_everything_but_closing(self, stage):
        engine = stage.engine
        client, descriptor = stage.client()
        engine.close()
        engine.close()
        for use in (
            lambda: stage.begin(descriptor),
            engine.add_port,
            lambda: engine.set_port(0, True, 0),
            lambda: engine.open([0]),
            lambda: engine.add_backend("127.0.0.1", 1),
            lambda: engine.drop_port(0),
            lambda: engine.drop_backend(0),
            lambda: engine.joined(0),
            lambda: engine.reset(SHUTDOWN, -1),
            engine.collect,
            engine.reports,
            lambda: engine.report_fd,
        ):
            with pytest.raises(RuntimeError, match="closed"):
                use()
        assert (engine.live(), engine.descriptors()) == (0, 0)
        stage.module.refuse(descriptor)
        assert was_reset(client)

    def test_one_that_was_never_begun_is_like_a_closed_one(self, stage):
        blank = stage.module.Engine.__new__(stage.module.Engine)
        with pytest.raises(RuntimeError, match="closed"):
            blank.add_port()
        blank.close()

    def test_beginning_twice_is_refused_and_harms_nobody(self, stage):
        client, server = stage.pair()
        with pytest.raises(RuntimeError, match="runs already"):
            stage.engine.__init__(**OPTIONS)
        client.send(b"still here")
        assert server.recv(100) == b"still here"

    def test_beginning_again_after_close_starts_from_nothing_or_is_refused(self):
        """In a process of its own, that may crash."""
        run(
            """
            stage = Stage()
            stage.pair()
            stage.engine.drop_port(stage.engine.add_port())
            stage.engine.close()
            try:
                stage.engine.__init__(**OPTIONS)
            except RuntimeError:
                raise SystemExit
            assert (stage.engine.add_port(), stage.engine.collect()) == (0, ([], []))
            stage.engine.close()
            """
        )

    @pytest.mark.parametrize("workers", [1, 8, 64])
    def test_threads_and_descriptors_end_with_close(self, workers):
        before = descriptors()
        stage = Stage(workers=workers)
        pairs = [stage.pair() for _ in range(2 * workers)]
        assert (threads(), stage.engine.live()) == (workers, len(pairs))
        stage.engine.close()
        wait(lambda: threads() == 0)
        assert all(was_reset(side) for pair in pairs for side in pair)
        stage.close()
        assert descriptors() == before

    def test_one_that_is_dropped_is_closed(self):
        stage = Stage()
        client, server = stage.pair()
        del stage.engine
        wait(lambda: threads() == 0)
        assert was_reset(client)
        assert was_reset(server)
        for sock in stage._sockets:
            sock.close()

    def test_a_process_may_exit_without_closing_it(self):
        run(
            """
            kept = Stage(workers=8)
            pairs = [kept.pair() for _ in range(20)]
            for client, server in pairs:
                client.send(bytes(100_000))
            """
        )

    def test_without_descriptors_for_its_threads_it_does_not_begin(self):
        run(
            """
            import resource
            from tests.loop.dataplane.engine_rig import descriptors, new_engine, threads, wait
            before = descriptors()
            for room in range(17):
                resource.setrlimit(resource.RLIMIT_NOFILE, (before - 1 + room, 1000))
                try:
                    new_engine(workers=8)
                except OSError:
                    pass
                else:
                    raise SystemExit("it had no descriptors, and began")
                resource.setrlimit(resource.RLIMIT_NOFILE, (1000, 1000))
                wait(lambda: threads() == 0)
                assert descriptors() == before, room
            """
        )


def run(program: str) -> None:
    """In a process of its own, which ends well."""
    head = "from tests.loop.dataplane.engine_rig import OPTIONS, Stage\n"
    done = subprocess.run(  # noqa: TID251 - no event loop here
        (sys.executable, "-c", head + textwrap.dedent(program)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, f"status {done.returncode}: {done.stderr}"


class TestSlots:
    def test_a_slot_in_use_is_kept(self, stage):
        client, server = stage.pair()
        stage.engine.collect()
        assert not stage.engine.drop_port(stage.port)
        assert not stage.engine.drop_backend(stage.backend)
        client.close()
        server.close()
        wait(lambda: stage.engine.live() == 0)

    def test_a_dial_under_way_keeps_its_slots_too(self, stage):
        hole = stage.black_hole()
        _, descriptor = stage.client()
        assert stage.begin(descriptor, hole) == 0
        stage.engine.collect()
        assert not stage.engine.drop_port(stage.port)
        assert not stage.engine.drop_backend(hole)

    def test_it_is_given_up_once_its_last_counts_were_seen_and_starts_at_zero(self, stage):
        client, server = stage.pair()
        client.send(b"12345")
        assert server.recv(10) == b"12345"
        client.close()
        server.close()
        wait(lambda: stage.engine.live() == 0)
        assert not stage.engine.drop_port(stage.port)
        ports, backends = stage.engine.collect()
        assert [(slot, up, down, sum(closes)) for slot, up, down, closes, *_ in ports] == [(0, 5, 0, 1)]
        assert backends == [(0, 1, 0)]
        assert not stage.engine.drop_port(stage.port)  # a report names it
        stage.reports(1)
        assert stage.engine.drop_port(stage.port)
        assert stage.engine.drop_backend(stage.backend)
        assert (stage.engine.add_port(), stage.engine.add_backend("127.0.0.1", 1)) == (0, 0)
        assert stage.engine.collect() == ([], [])
        assert stage.engine.joined(0) == 0

    def test_giving_one_up_twice_does_not_make_it_two_owners(self, stage):
        spare = stage.engine.add_port()
        assert stage.engine.drop_port(spare)
        with pytest.raises(ValueError, match="no such slot"):
            stage.engine.drop_port(spare)
        assert stage.engine.add_port() != stage.engine.add_port()

    def test_thousands_of_them(self, stage):
        ports = [stage.engine.add_port() for _ in range(5000)]
        backends = [stage.engine.add_backend("127.0.0.1", 1) for _ in range(5000)]
        assert len({*ports, stage.port}) == len({*backends, stage.backend}) == 5001
        assert (
            stage.engine.begin(stage.client()[1], ports[-1], backends[-1], "", 0, b"", False, 0) != 0
        )  # refused
        client, descriptor = stage.client()
        backends.append(stage.engine.add_backend(*stage.back.getsockname()))
        assert stage.engine.begin(descriptor, ports[-1], backends[-1], "", 0, b"", False, 0) == 0
        assert stage.engine.collect()[1] == [(backends[-1], 1, 1)]
        client.close()


def test_the_descriptor_count_is_two_a_connection(stage):
    many_descriptors()
    before = descriptors()
    pairs = [stage.pair() for _ in range(50)]
    assert stage.engine.descriptors() == 100
    assert descriptors() == before + 200
    for pair in pairs:
        for sock in pair:
            sock.shutdown(socket.SHUT_WR)
    wait(lambda: stage.engine.descriptors() == 0)
