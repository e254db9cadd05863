"""What the command line asks for, as one checked value.

Owns defaults, units and the meaning of each flag of `uproxy run`. All mistakes are found
in one go. Refuses to look at the machine: what can be had there is the probe's business.
"""

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TypeVar

from uproxy.kit.durations import parse_duration_s
from uproxy.model.faults import BadInput, Fault
from uproxy.model.names import IPNetwork

SERVICE_CIDR = "10.96.0.0/16"
LOOPBACK_SERVICE_CIDR = "127.96.0.0/16"
METRICS_ADDRESS = "127.0.0.1:10249"
DEFAULT_THREADS_MAX = 4
THREADS_MAX = 64
HEALTHZ_ADDRESS = "0.0.0.0:10256"

Address = tuple[str, int]
"""Host, as an IP address, and port."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How one proxy runs. Durations are in seconds."""

    files: tuple[str, ...]
    """Files, directories, and `-` for standard input."""
    endpoints: tuple[str, ...]
    """`--endpoint` flags as written; `sources/flags.py` reads them."""
    capture: str
    """auto, bind, redirect or tproxy."""
    redirect_mechanism: str
    """auto, nft or iptables."""
    relay: str
    """auto, native or python."""
    threads: int
    """Of the native relay."""
    service_cidr: IPNetwork | None
    """Where cluster IPs come from that manifests do not name; None leaves it to the capture."""
    metrics_address: Address
    healthz_address: Address
    connect_timeout_s: float
    idle_timeout_s: float
    half_closed_timeout_s: float
    udp_idle_timeout_s: float
    drain_timeout_s: float
    log_format: str
    """text or json."""
    access_log: bool


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `uproxy run`."""
    add_source_flags(parser)
    network = parser.add_argument_group("network")
    network.add_argument(
        "--capture",
        choices=("auto", "bind", "redirect", "tproxy"),
        default="auto",
        help="how traffic for a VIP gets here: listen on the VIP itself, have the kernel redirect it, or "
        "deliver it as it is, so that endpoints can see their clients' own addresses "
        "(default: redirect where this machine can, else bind)",
    )
    network.add_argument(
        "--redirect-mechanism",
        choices=("auto", "nft", "iptables"),
        default="auto",
        help="what redirects (default: nftables where it works, else iptables with ipset)",
    )
    network.add_argument(
        "--relay",
        choices=("auto", "native", "python"),
        default="auto",
        help="what carries TCP: the C extension, in threads of its own, or Python "
        "(default: native where it was built)",
    )
    network.add_argument(
        "--threads",
        default=str(_default_threads()),
        metavar="N",
        help="threads of the native relay "
        f"(default: one for each CPU but one, at most {DEFAULT_THREADS_MAX})",
    )
    network.add_argument(
        "--metrics-bind-address",
        default=METRICS_ADDRESS,
        metavar="IP:PORT",
        help="serves /metrics and what `uproxy services` asks (default: %(default)s)",
    )
    network.add_argument(
        "--healthz-bind-address",
        default=HEALTHZ_ADDRESS,
        metavar="IP:PORT",
        help="serves /healthz and /livez (default: %(default)s)",
    )
    _add_timeouts(parser)
    logs = parser.add_argument_group("logs")
    logs.add_argument("--log-format", choices=("text", "json"), default="text", help="(default: text)")
    logs.add_argument("--access-log", action="store_true", help="one line for every connection that ended")


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    """Declare where objects come from; `uproxy check` has these too."""
    sources = parser.add_argument_group("sources")
    sources.add_argument(
        "-f",
        "--filename",
        dest="files",
        action="append",
        default=[],
        metavar="FILE",
        help="a manifest, a directory of manifests, or - for standard input; repeatable",
    )
    sources.add_argument(
        "--endpoint",
        dest="endpoints",
        action="append",
        default=[],
        metavar="NAMESPACE/SERVICE[:PORT]=ADDR:PORT",
        help="an endpoint that no manifest has; ADDR may be a host name; repeatable",
    )
    sources.add_argument(
        "--service-cidr",
        metavar="CIDR",
        help="cluster IPs for Services whose manifest has none "
        f"(default: {SERVICE_CIDR}, with bind capture {LOOPBACK_SERVICE_CIDR})",
    )


def _add_timeouts(parser: argparse.ArgumentParser) -> None:
    timeouts = parser.add_argument_group("timeouts", "durations such as 250ms, 30s, 1h")
    for flag, default, meaning in (
        ("--connect-timeout", "2s", "for one endpoint to accept, before the next is tried"),
        (
            "--idle-timeout",
            "24h",
            "for a connection on which nothing moves (dead peers are found sooner)",
        ),
        ("--half-closed-timeout", "1h", "the same, when one side has finished sending"),
        ("--udp-idle-timeout", "2m", "for a UDP flow; one that saw a single exchange ends after 30s"),
        ("--drain-timeout", "30s", "for open connections to end, after SIGTERM"),
    ):
        timeouts.add_argument(
            flag, default=default, metavar="DURATION", help=f"{meaning} (default: {default})"
        )


def parse_settings(flags: argparse.Namespace) -> Settings:
    """Check the flags of `uproxy run`.

    Raises BadInput with every mistake.
    """
    faults: list[Fault] = []

    def checked(flag: str, parse: Callable[[str], T], fallback: T) -> T:
        text = getattr(flags, flag.replace("-", "_"))
        try:
            return fallback if text is None else parse(text)
        except ValueError as error:
            faults.append(Fault(f"--{flag}", 0, "", None, "", str(error)))
            return fallback

    settings = Settings(
        files=tuple(flags.files),
        endpoints=tuple(flags.endpoints),
        capture=flags.capture,
        redirect_mechanism=flags.redirect_mechanism,
        relay=flags.relay,
        threads=checked("threads", _threads, 1),
        service_cidr=checked("service-cidr", parse_cidr, None),
        metrics_address=checked("metrics-bind-address", parse_address, ("", 0)),
        healthz_address=checked("healthz-bind-address", parse_address, ("", 0)),
        connect_timeout_s=checked("connect-timeout", _positive_s, 0.0),
        idle_timeout_s=checked("idle-timeout", _positive_s, 0.0),
        half_closed_timeout_s=checked("half-closed-timeout", _positive_s, 0.0),
        udp_idle_timeout_s=checked("udp-idle-timeout", _positive_s, 0.0),
        drain_timeout_s=checked("drain-timeout", parse_duration_s, 0.0),
        log_format=flags.log_format,
        access_log=flags.access_log,
    )
    if not settings.files:
        faults.append(Fault("-f", 0, "", None, "", "give at least one manifest: a file, a directory, or -"))
    if faults:
        raise BadInput(tuple(faults))
    return settings


T = TypeVar("T")


def _default_threads() -> int:
    """Python's own thread takes a CPU too: it accepts and dials, half of a short connection's work."""
    return max(1, min(len(os.sched_getaffinity(0)) - 1, DEFAULT_THREADS_MAX))


def _threads(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= THREADS_MAX:
        raise ValueError(f"must be a number from 1 to {THREADS_MAX}")
    return int(text)


def _positive_s(text: str) -> float:
    seconds = parse_duration_s(text)
    if seconds <= 0:
        raise ValueError("must be more than 0")
    return seconds


def parse_cidr(text: str) -> IPNetwork | None:
    """A network with room for at least one Service.

    Raises ValueError, with words for a person.
    """
    try:
        return ip_network(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a network such as {SERVICE_CIDR}: {error}") from error


def parse_address(text: str) -> Address:
    """`IP:PORT` or `[IPv6]:PORT`.

    Raises ValueError, with words for a person.
    """
    host, colon, port = text.rpartition(":")
    try:
        ip = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError as error:
        raise ValueError(f"{text!r} is not an address such as {METRICS_ADDRESS}") from error
    if not colon or not port.isdigit() or int(port) > 65535 or (ip.version == 6 and host[:1] != "["):
        raise ValueError(f"{text!r} is not an address such as {METRICS_ADDRESS} or [::1]:10249")
    return str(ip), int(port)
