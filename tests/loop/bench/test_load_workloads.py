import http.client

import pytest

from tests.loop.bench.conftest import BOTH
from tests.loop.bench.load_process import measure, serving
from uproxy.bench.latency import Latencies

DURATION_S = 0.15


@pytest.fixture(scope="module", params=BOTH)
def server(request):
    """A server's kind and its port, on all addresses of both families."""
    with serving("--by", request.param, address="[::]:0") as (_, port):
        yield request.param, port


@pytest.fixture
def target(server, generator):
    """Like meets like over IPv4, and the other kind over IPv6."""
    kind, port = server
    return "127.0.0.1" if kind == generator else "::1", port


@pytest.mark.parametrize("workload", ["rr", "crr", "connect", "udp-rr"])
def test_exchanges_are_counted_with_their_bytes_waits_and_server(target, generator, workload):
    outcome = measure(target, workload, connections=3, duration_s=DURATION_S, generator=generator)
    each = 32 if workload == "connect" else 64
    assert outcome.operations > 0
    assert outcome.errors_by_kind == {}
    assert outcome.bytes_up == outcome.bytes_down == outcome.operations * each
    assert outcome.by_endpoint == {"pod-a": outcome.operations}
    # Those under way at the end are waited for, and in the histogram alone.
    assert 0 <= Latencies.decode(outcome.corrected).count - outcome.operations <= 3
    assert (outcome.generator, outcome.stuck) == (generator, 0)


@pytest.mark.parametrize("workload", ["rr", "crr"])
def test_http_exchanges_are_counted(target, generator, workload):
    outcome = measure(
        target, workload, protocol="http", connections=3, duration_s=DURATION_S, generator=generator
    )
    assert outcome.operations > 0
    assert outcome.errors_by_kind == {}
    assert outcome.bytes_down > 64 * outcome.operations


@pytest.mark.parametrize("direction", ["up", "down", "both"])
def test_streams_count_what_was_received(target, generator, direction):
    outcome = measure(
        target,
        f"stream-{direction}",
        connections=2,
        message_bytes=65_536,
        duration_s=DURATION_S,
        generator=generator,
    )
    assert outcome.errors_by_kind == {}
    assert outcome.by_endpoint == {"pod-a": 2}
    received = {
        "up": outcome.bytes_up,
        "down": outcome.bytes_down,
        "both": outcome.bytes_up + outcome.bytes_down,
    }
    assert outcome.operations == received[direction] > 65_536
    assert outcome.elapsed_s >= DURATION_S / 2
    assert (outcome.corrected, outcome.stuck) == (None, 0)


def test_idle_connections_are_held(target, generator, capfd):
    outcome = measure(target, "idle", connections=50, duration_s=DURATION_S, generator=generator)
    assert (outcome.held, outcome.operations) == (50, 50)
    assert outcome.by_endpoint == {"pod-a": 50}
    assert capfd.readouterr().err == "holding 50\n"


def test_long_messages_go_both_ways_and_need_not_be_alike(target, generator):
    lengths = {"message_bytes": 700_000, "reply_bytes": 300_001}
    outcome = measure(target, "rr", connections=2, duration_s=DURATION_S, generator=generator, **lengths)
    assert outcome.operations > 0
    assert outcome.errors_by_kind == {}
    assert outcome.bytes_down == outcome.operations * 300_001


@pytest.mark.parametrize("connection", ["keep-alive", "close"])
def test_any_http_client_is_answered(server, connection):
    client = http.client.HTTPConnection("127.0.0.1", server[1], timeout=5)
    for _ in range(2):
        client.request("GET", "/", headers={"Connection": connection})
        reply = client.getresponse()
        assert (reply.status, len(reply.read())) == (200, 64)
    client.close()
