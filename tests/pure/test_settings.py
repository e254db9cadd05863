"""Flags become one checked value, or every mistake is told."""

import argparse

import pytest

from uproxy.model.faults import BadInput
from uproxy.settings import Settings, add_run_flags, parse_address, parse_settings


def parse(*argv: str) -> Settings:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_run_flags(parser)
    return parse_settings(parser.parse_args(argv))


def test_defaults_are_kube_proxys_where_it_has_them():
    settings = parse("-f", "web.yaml")
    assert settings.metrics_address == ("127.0.0.1", 10249)
    assert settings.healthz_address == ("0.0.0.0", 10256)
    assert settings.capture == "auto"
    assert settings.service_cidr is None
    assert (settings.connect_timeout_s, settings.drain_timeout_s) == (2.0, 30.0)


def test_all_mistakes_are_told_at_once():
    with pytest.raises(BadInput) as caught:
        parse("--connect-timeout", "soon", "--metrics-bind-address", "here", "--service-cidr", "10.96.0.1/16")
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "--metrics-bind-address",
        "--service-cidr",
        "--connect-timeout",
        "-f",
    ]


@pytest.mark.parametrize("text", ["0s", "0"])
def test_a_timeout_of_nothing_is_a_mistake(text):
    with pytest.raises(BadInput, match="must be more than 0"):
        parse("-f", "x", "--idle-timeout", text)


def test_draining_may_be_skipped():
    assert parse("-f", "x", "--drain-timeout", "0s").drain_timeout_s == 0.0


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:0", ("::1", 0)), ("0.0.0.0:65535", ("0.0.0.0", 65535))],
)
def test_addresses(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["127.0.0.1", ":80", "::1:80", "host:80", "127.0.0.1:65536", "1.2.3.4:x", ""]
)
def test_what_is_no_address(text):
    with pytest.raises(ValueError, match="is not an address"):
        parse_address(text)
