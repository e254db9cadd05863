import msgspec
import pytest

from uproxy.bench.load.faulty import Faults, Injection, parse_faults
from uproxy.bench.load.plan import LoadPlan
from uproxy.errors import UproxyError


def decode(**fields) -> LoadPlan:
    plan = {"workload": "rr", "host": "10.244.0.11", "port": 80} | fields
    return msgspec.json.decode(msgspec.json.encode(plan), type=LoadPlan)


def test_a_reply_is_as_long_as_the_message_unless_told():
    assert decode(message_bytes=128).answer_bytes == 128
    assert decode(message_bytes=128, reply_bytes=4_096).answer_bytes == 4_096


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        pytest.param({"connections": 0}, "connections", id="no connections"),
        pytest.param({"message_bytes": 31}, "message_bytes", id="shorter than its header"),
        pytest.param({"workload": "churn"}, "workload", id="unknown workload"),
        pytest.param({"rate_per_s": 0}, "rate_per_s", id="no rate"),
        pytest.param({"duration_s": 0}, "duration_s", id="no time"),
        pytest.param({"port": 0}, "port", id="no port"),
        pytest.param({"conections": 8}, "conections", id="misspelt"),
        pytest.param({"workload": "idle", "rate_per_s": 5}, "no rate", id="idle with a rate"),
        pytest.param({"workload": "idle", "protocol": "http"}, "http", id="idle over http"),
        pytest.param({"workload": "udp-rr", "message_bytes": 65_508}, "datagram", id="datagram too long"),
    ],
)
def test_a_bad_plan_is_refused_with_what_is_wrong(fields, words):
    with pytest.raises(msgspec.ValidationError, match=words):
        decode(**fields)


def test_faults_are_read_from_their_flags_and_add_up():
    delays = ["constant:5ms", "percent:1:100ms", "stall:5s:500ms"]
    assert parse_faults(delays, 0.01) == Faults(0.005, 0.01, 0.1, 5.0, 0.5, 0.01)


@pytest.mark.parametrize(
    "delay", ["constant", "constant:soon", "percent:x:1s", "percent:101:1s", "stall:1s:1s", "sometimes:1s"]
)
def test_a_bad_delay_is_refused(delay):
    with pytest.raises(UproxyError, match=f"--delay {delay}"):
        parse_faults([delay], 0)


def test_an_error_share_is_a_share():
    with pytest.raises(UproxyError, match="between 0 and 1"):
        parse_faults([], 1.5)


def test_shares_are_counted_out():
    injection = Injection(Faults(slow_share=0.125, slow_s=0.1, error_share=0.25))
    assert [injection.delay_ns() for _ in range(16)] == ([0] * 7 + [100_000_000]) * 2
    assert [injection.is_error() for _ in range(8)] == [False, False, False, True] * 2
