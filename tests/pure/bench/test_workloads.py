"""Names of workloads, as `--workload` takes them."""

import re

import pytest

from uproxy.bench.workloads import (
    Churn,
    Failover,
    Idle,
    Load,
    Spread,
    default_workloads,
    parse_workload,
    parse_workloads,
)
from uproxy.model.faults import BadInput


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rr-64x1KiB", Load("rr-64x1KiB", "rr", 64, 1024)),
        ("crr-32", Load("crr-32", "crr", 32, 64)),
        ("udp-rr-16x64B", Load("udp-rr-16x64B", "udp-rr", 16, 64)),
        ("stream-both-8", Load("stream-both-8", "stream-both", 8, 65536)),
        ("paced-rr-1x64B", Load("paced-rr-1x64B", "rr", 1, 64, paced=True)),
        ("connect-8", Load("connect-8", "connect", 8, 64)),
        ("idle-1000", Idle("idle-1000", 1000)),
        ("spread-32", Spread("spread-32", 32)),
        ("churn-10000", Churn("churn-10000", 10_000)),
        ("failover-blackhole", Failover("failover-blackhole", "blackhole")),
    ],
)
def test_a_name_says_everything(name, expected):
    assert parse_workload(name) == expected


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("rr-0x64B", "the number of connections must be 1 to 20,000"),
        ("crr-0", "the number of connections must be 1 to 20,000"),
        ("idle-20001", "the number of connections must be 1 to 20,000"),
        ("churn-0", "the number of Services must be 1 to 50,000"),
        ("rr-64", "a message size belongs here, as in rr-16x64B"),
        ("crr-32x64B", "no message size belongs here, as in crr-8"),
        ("rr-1x31B", "the message size in bytes must be 32 to 1,048,576"),
        ("udp-rr-1x64KiB", "the message size in bytes must be 32 to 65,507"),
        ("paced-stream-up-1", "a stream has no operations to pace"),
        ("failover", "no workload is called 'failover'"),
        ("failover-fire", "no workload is called 'failover-fire'"),
        ("rr-64x64b", "no workload is called 'rr-64x64b'"),
        ("", "no workload is called ''"),
    ],
)
def test_a_wrong_name_is_told_in_words(name, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_workload(name)


def test_names_of_the_default_set_are_those_they_parse_to():
    names = [workload.name for workload in default_workloads()]
    assert len(names) == len(set(names))
    assert [parse_workload(name).name for name in names] == names


def test_a_kind_alone_is_all_of_it_in_the_default_set_and_of_no_other():
    assert [one.name for one in parse_workloads("rr")] == ["rr-64x64B", "rr-64x1KiB", "rr-1x64B"]
    assert [one.name for one in parse_workloads("failover")] == ["failover-kill", "failover-blackhole"]
    assert all(one.name.startswith("stream-") for one in parse_workloads("stream"))


def test_a_list_keeps_its_order_and_each_only_once():
    assert [one.name for one in parse_workloads("crr-32, rr-1x64B,rr,crr-32")] == [
        "crr-32",
        "rr-1x64B",
        "rr-64x64B",
        "rr-64x1KiB",
    ]


def test_all_mistakes_of_a_list_are_told_at_once():
    with pytest.raises(BadInput) as raised:
        parse_workloads("rr-0x64B,rr-64x64B,nonsense")
    assert len(raised.value.faults) == 2


def test_a_list_of_nothing_is_a_mistake():
    with pytest.raises(BadInput, match="--workload: names no workload"):
        parse_workloads(" , ")
