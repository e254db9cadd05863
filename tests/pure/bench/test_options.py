"""The flags of `uproxy bench`: what they mean, and every mistake at once."""

import argparse

import pytest

from uproxy.bench.command import choose_paths
from uproxy.bench.flags import add_bench_flags
from uproxy.bench.options import Options, parse_options
from uproxy.bench.paths import known_paths
from uproxy.bench.targets import Target, parse_target
from uproxy.bench.workloads import Load
from uproxy.model.faults import BadInput


def options(*argv: str) -> Options:
    parser = argparse.ArgumentParser()
    add_bench_flags(parser)
    return parse_options(parser.parse_args(argv))


def mistakes(*argv: str) -> list[str]:
    with pytest.raises(BadInput) as raised:
        options(*argv)
    return [str(fault) for fault in raised.value.faults]


def test_quick_asks_for_less_of_the_same():
    usual, quick = options(), options("--quick")
    assert quick.workloads == usual.workloads
    assert quick.scale.rounds < usual.scale.rounds
    assert quick.scale.duration_s < usual.scale.duration_s


def test_what_is_asked_for_goes_before_quick():
    scale = options("--quick", "--rounds", "9", "--duration", "2.5").scale
    assert (scale.rounds, scale.duration_s) == (9, 2.5)


def test_a_rate_makes_the_paced_workloads_of_the_default_set_the_same_twice():
    chosen = options("--rate", "5000")
    assert chosen.scale.rate_per_s == 5000
    assert not any(isinstance(one, Load) and one.paced for one in chosen.workloads)
    assert [one.name for one in options("--rate", "5", "--workload", "paced-crr-1").workloads] == [
        "paced-crr-1"
    ]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--rounds", "0"), "--rounds: '0' is not a whole number from 1 to 1000"),
        (("--duration", "-1"), "--duration: '-1' is not a number above 0"),
        (("--duration", "nan"), "--duration: 'nan' is not a number above 0"),
        (("--rate", "fast"), "--rate: 'fast' is not a number above 0"),
        (("--tolerance", "0"), "--tolerance: '0' is not a number above 0"),
        (("--peers", "envoy"), "--peers: no peer is called envoy; there are haproxy, nginx"),
        (("--workload", "rr-0x64B"), "--workload: rr-0x64B: the number of connections must be 1 to 20,000"),
        (("--echo", "9000"), "--echo: '9000' is not an address such as 127.0.0.1:10249"),
        (
            ("--target", "a:1", "--path", "direct"),
            "--target: measures what exists: --path and --peers are for",
        ),
    ],
)
def test_a_wrong_flag_is_one_clear_line(argv, words):
    (line,) = mistakes(*argv)
    assert line.startswith(words)


def test_all_wrong_flags_are_told_at_once():
    assert len(mistakes("--rounds", "x", "--rate", "x", "--peers", "x", "--workload", "x,y")) == 5


def test_tolerance_is_a_percentage():
    assert options("--tolerance", "7.5%").tolerance == pytest.approx(0.075)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vip=10.96.0.10:80", Target("vip", "10.96.0.10", 80)),
        ("web.shop.svc:8080", Target("web.shop.svc:8080", "web.shop.svc", 8080)),
        ("v6=[fd00::10]:80", Target("v6", "fd00::10", 80)),
    ],
)
def test_a_target_has_a_name_or_is_called_as_it_is_written(text, expected):
    assert parse_target(text) == expected


@pytest.mark.parametrize(
    "text", ["", ":80", "host", "host:", "host:0", "host:65536", "fd00::10:80", "=host:80"]
)
def test_what_is_no_target_is_refused(text):
    with pytest.raises(ValueError, match=r"is not a target|the port must be"):
        parse_target(text)


def test_the_target_called_direct_is_the_baseline_or_else_the_first():
    assert [one.name for one in options("--target", "vip=a:1", "--target", "direct=b:2").targets] == [
        "direct",
        "vip",
    ]
    assert [one.name for one in options("--target", "z=a:1", "--target", "a=b:2").targets] == ["z", "a"]


def test_two_targets_of_one_name_are_a_mistake():
    (line,) = mistakes("--target", "a=h:1", "--target", "a=h:2")
    assert "two targets have this name" in line


def chosen(*argv: str, no_lab: str | None = None, relay: str = "native") -> list[str]:
    wanted = options(*argv)
    return [path.name for path in choose_paths(wanted, known_paths(wanted.peers, no_lab, relay))]


def test_direct_is_always_measured():
    assert chosen("--path", "uproxy-redirect") == ["direct", "uproxy-redirect"]


def test_both_relays_are_measured_where_the_native_one_is_there_but_not_in_a_hurry():
    assert "uproxy-bind-python" in chosen()
    assert "uproxy-bind-python" not in chosen("--quick")
    assert chosen("--quick", "--path", "uproxy-bind-python") == ["direct", "uproxy-bind-python"]
    assert "uproxy-bind-python" not in chosen(relay="python")


def test_peers_are_measured_on_request():
    assert "haproxy" not in chosen()
    assert chosen("--peers", "haproxy,nginx")[-3:] == ["haproxy", "haproxy-tuned", "nginx"]


def test_a_path_that_nobody_knows_is_told_with_those_there_are():
    with pytest.raises(BadInput, match="no path is called envoy; there are direct, uproxy-bind, "):
        chosen("--path", "envoy")


def test_without_namespaces_paths_say_why_they_are_left_out():
    known = known_paths((), "network namespaces need root", "python")
    missing = {path.name: path.missing for path in known}
    assert missing["direct"] is None
    assert missing["uproxy-bind"] is None
    assert missing["uproxy-redirect"] == missing["kernel-dnat"] == "network namespaces need root"
