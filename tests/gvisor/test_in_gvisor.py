"""Runs the tests of `inside/`, and those of the relay, in gVisor, and passes on what they say."""

import sys
from pathlib import Path

import pytest

from tests.gvisor.sandbox import run_in_gvisor

HERE = Path(__file__).parent
TIMEOUT_S = 480.0
RELAY = HERE.parent / "loop" / "dataplane"


@pytest.mark.timeout(TIMEOUT_S + 30)
@pytest.mark.parametrize(
    "tests",
    [
        pytest.param(HERE / "inside" / "whole_proxy.py", id="whole-proxy"),
        pytest.param(RELAY / "test_relay.py", id="relay"),
        pytest.param(RELAY / "test_relay_model.py", id="relay-model"),
    ],
)
def test_in_gvisor(tests: Path, request: pytest.FixtureRequest) -> None:
    words = [sys.executable, "-B", "-m", "pytest", str(tests)]
    words += [
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "--timeout",
        "240",
        "-q",
        "--color=no",
        "-rA",
        "--durations=8",
    ]
    if chosen := request.config.getoption("--inside"):
        words += ["-k", chosen]
    status, output = run_in_gvisor(words, TIMEOUT_S)
    if status:
        pytest.fail(f"inside gVisor:\n{output}", pytrace=False)
