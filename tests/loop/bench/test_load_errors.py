import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.loop.bench.load_process import measure, run_program, serving
from tests.loop.conftest import free_port
from uproxy.bench.latency import Latencies
from uproxy.bench.load import wire
from uproxy.bench.load.wire import Header, Kind
from uproxy.errors import UproxyError


@contextmanager
def answering(answer: Callable[[socket.socket, socket.socket], None]) -> Iterator[tuple[str, int]]:
    """Serve one connection after another: `answer` is called with the listener and the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while listener.fileno() >= 0:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    answer(listener, connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            if listener.fileno() >= 0:
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def reply(connection: socket.socket, spoil: bool = False) -> bool:
    request = wire.Incoming()
    while not request.whole:
        data = connection.recv(wire.HEADER if not request.got else 64)
        if not data:
            return False
        request.feed(data)
    header = Header(Kind.REPLY, request.header.reply_length, request.header.sequence, b"pod-b")
    answer = bytearray(wire.message(header))
    answer[-1] ^= spoil and len(answer) > wire.HEADER
    connection.sendall(answer)
    return True


@pytest.mark.parametrize("workload", ["rr", "crr", "connect"])
def test_a_server_that_fails_one_in_a_hundred_is_reported_as_such(generator, workload):
    with serving("--errors", "0.01") as target:
        outcome = measure(target, workload, connections=4, duration_s=0.6, generator=generator)
    ((kind, errors),) = outcome.errors_by_kind.items()
    assert kind == "reset"
    assert outcome.operations > 300
    assert errors / (errors + outcome.operations) == pytest.approx(0.01, abs=0.004)


def test_a_lost_datagram_is_a_timeout_and_waits_as_long(generator):
    with serving("--errors", "0.5") as target:
        outcome = measure(target, "udp-rr", connections=2, duration_s=0.5, timeout_s=0.1, generator=generator)
    assert outcome.errors_by_kind.keys() == {"timeout"}
    assert outcome.errors_by_kind["timeout"] >= 4
    corrected = Latencies.decode(outcome.corrected)
    assert corrected.count >= outcome.operations + outcome.errors_by_kind["timeout"]
    assert corrected.percentile_ns(90) >= 100e6


def test_a_target_that_goes_away_is_refused_and_the_run_goes_on(generator):
    def once(listener: socket.socket, connection: socket.socket) -> None:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        reply(connection)

    with answering(once) as target:
        outcome = measure(target, "crr", connections=2, duration_s=0.3, generator=generator)
    assert outcome.operations == 0
    assert outcome.errors_by_kind.keys() == {"refused"}
    # It rests for longer and longer, and does not spin: 1 + 2 + 4 ... + 128 ms, twice.
    assert 4 <= outcome.errors_by_kind["refused"] < 30
    assert outcome.longest_gap_ms == pytest.approx(300, rel=0.01)


def test_a_server_that_hangs_up_is_an_end_of_file(generator):
    replies = iter([True])

    def first_only(_listener: socket.socket, connection: socket.socket) -> None:
        if next(replies, False):
            reply(connection)
        else:
            connection.recv(64)

    with answering(first_only) as target:
        outcome = measure(target, "crr", duration_s=0.2, generator=generator)
    assert outcome.errors_by_kind.keys() == {"eof"}


def test_a_reply_with_other_bytes_is_a_mismatch(generator):
    with answering(lambda _, connection: reply(connection, spoil=True)) as target:
        outcome = measure(target, "crr", duration_s=0.2, generator=generator)
    assert outcome.operations == 0
    assert outcome.errors_by_kind.keys() == {"mismatch"}


def test_a_held_connection_that_is_lost_is_not_held(generator):
    with serving("--errors", "0.1") as target:
        outcome = measure(target, "idle", connections=30, duration_s=0.1, generator=generator)
    assert outcome.held < 30
    assert outcome.errors_by_kind.keys() == {"reset"}


def test_an_unreachable_target_is_an_error_at_once():
    port = free_port()
    with pytest.raises(UproxyError, match=f"127.0.0.1:{port} does not answer: Connection refused"):
        measure(("127.0.0.1", port), "rr")


def test_a_target_that_is_no_bench_server_is_told_apart():
    def http(_listener: socket.socket, connection: socket.socket) -> None:
        connection.recv(64)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    with answering(http) as target, pytest.raises(UproxyError, match="not as the server of uproxy bench"):
        measure(target, "rr")


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        pytest.param(
            '{"workload": "rr", "host": "127.0.0.1", "port": 1}', "Connection refused", id="refused"
        ),
        pytest.param(
            '{"workload": "rr", "host": "::1", "port": 80, "connections": 0}', "connections", id="zero"
        ),
        pytest.param('{"workload": "rr", "host": "127.0.0.1", "port": 1', "bad plan", id="no JSON"),
        pytest.param(
            '{"workload": "rr", "host": "no.such.invalid", "port": 1}', "no.such.invalid", id="no name"
        ),
    ],
)
def test_a_run_that_cannot_begin_is_one_line_and_exit_status_1(plan, words):
    status, out, err = run_program(plan, "run")
    assert (status, out) == (1, "")
    assert err.startswith("uproxy bench: ")
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param(["serve", "localhost"], id="no address"),
        pytest.param(["serve", "192.0.2.1:0"], id="not ours"),
        pytest.param(["serve", "127.0.0.1:0", "--name", "x" * 17], id="long name"),
        pytest.param(["serve", "127.0.0.1:0", "--delay", "soon"], id="bad delay"),
    ],
)
def test_a_server_that_cannot_begin_is_one_line_and_exit_status_1(argv):
    status, out, err = run_program("", *argv)
    assert (status, out, err.count("\n")) == (1, "", 1)


def test_the_program_prints_an_outcome():
    with serving() as (host, port):
        plan = f'{{"workload": "rr", "host": "{host}", "port": {port}, "duration_s": 0.1}}'
        status, out, err = run_program(plan, "run")
    assert (status, err, out.count("\n")) == (0, "", 1)
    assert '"by_endpoint":{"pod-a":' in out
