"""What a Service asks of this proxy in particular, by annotations `uproxy.dev/...`.

Owns their names and what each may say. All of it goes beyond what Kubernetes knows of a
Service, and every default is what kube-proxy does.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from uproxy.kit.durations import parse_duration_s

PREFIX = "uproxy.dev/"
COUNT_MAX = 1_000_000
DURATION_MAX_S = 365 * 86400.0


class Balancing(StrEnum):
    """How the endpoint of a new connection is chosen."""

    ROUND_ROBIN = "round-robin"
    LEAST_CONNECTIONS = "least-connections"
    P2C = "p2c"
    """The less loaded of two that were drawn by lot ("power of two choices", Mitzenmacher 2001)."""
    MAGLEV = "maglev"
    """By the client's address, with few moves when endpoints change (Eisenbud et al., NSDI 2016, 3.4)."""


class Handoff(StrEnum):
    """Whether the kernel carries a Service, where `--handoff` lets it carry any."""

    AUTO = "auto"
    """While it is hot."""
    ALWAYS = "always"
    NEVER = "never"


IPVS_SCHEDULERS = ("rr", "wrr", "lc", "wlc", "sh", "mh")


@dataclass(frozen=True, slots=True)
class Options:
    """Of one Service. Durations are in seconds; None means that it was not asked for."""

    balancing: Balancing = Balancing.ROUND_ROBIN
    slow_start_s: float | None = None
    """For how long a new endpoint's share grows, under least-connections."""
    removed_drain_s: float | None = None
    """How long connections of a removed endpoint may go on: 0 resets them at once, None leaves them."""
    max_connection_age_s: float | None = None
    """When a connection is ended, so that clients come again and are balanced anew; 10 % sooner or later."""
    max_connections_per_endpoint: int | None = None
    queue_max: int = 0
    """How many connections may wait for a place at an endpoint."""
    hold_s: float | None = None
    """How long a connection may wait for a first endpoint, instead of being refused."""
    proxy_protocol: bool = False
    """The endpoint is told the client's address by a PROXY protocol header, version 2."""
    handoff: Handoff = Handoff.AUTO
    """Whether the kernel carries it."""
    ipvs_scheduler: str | None = None
    """How IPVS balances it, in IPVS's words; None for round robin."""


DEFAULT_OPTIONS = Options()


def parse_options(annotations: Mapping[str, str]) -> tuple[Options, tuple[tuple[str, str], ...]]:
    """What some annotations ask for, and for each that cannot be followed its key and why.

    Annotations without the prefix are other people's.
    """
    options, faults = DEFAULT_OPTIONS, []
    for key, text in sorted(annotations.items()):
        if not key.startswith(PREFIX):
            continue
        try:
            options = replace(options, **_option(key.removeprefix(PREFIX), text))
        except ValueError as error:
            faults.append((key, str(error)))
    if options.queue_max and options.max_connections_per_endpoint is None:
        faults.append((f"{PREFIX}queue", f"needs {PREFIX}max-connections-per-endpoint beside it"))
    if options.slow_start_s is not None and options.balancing is not Balancing.LEAST_CONNECTIONS:
        faults.append((f"{PREFIX}slow-start", f"needs {PREFIX}balancing: least-connections beside it"))
    return options, tuple(faults)


def asked_for(options: Options) -> dict[str, str]:
    """The options that differ from their defaults, as annotations without the prefix."""
    return {
        name: _text(field, value)
        for name, (field, _) in _KNOWN.items()
        if (value := getattr(options, field)) != getattr(DEFAULT_OPTIONS, field)
    }


def _text(field: str, value: object) -> str:
    if field == "removed_drain_s":
        return f"drain={value:g}s" if value else "reset"
    if value is True:
        return "v2"
    return f"{value:g}s" if isinstance(value, float) else str(value)


def _option(name: str, text: str) -> dict[str, Any]:
    known = _KNOWN.get(name)
    if known is None:
        raise ValueError(f"is not known; there are {', '.join(sorted(_KNOWN))}")
    field, parse = known
    return {field: parse(text)}


def _balancing(text: str) -> Balancing:
    try:
        return Balancing(text)
    except ValueError:
        raise ValueError(f"must be one of {', '.join(Balancing)}, not {text!r}") from None


def _handoff(text: str) -> Handoff:
    try:
        return Handoff(text)
    except ValueError:
        raise ValueError(f"must be one of {', '.join(Handoff)}, not {text!r}") from None


def _ipvs_scheduler(text: str) -> str:
    if text not in IPVS_SCHEDULERS:
        raise ValueError(f"must be one of {', '.join(IPVS_SCHEDULERS)}, not {text!r}")
    return text


def _removed(text: str) -> float | None:
    word, equals, seconds = text.partition("=")
    if text == "leave":
        return None
    if text == "reset":
        return 0.0
    if word != "drain" or not equals:
        raise ValueError(f"must be leave, drain=SECONDS or reset, not {text!r}")
    return _duration_s(f"{seconds}s" if seconds.isdigit() else seconds)


def _duration_s(text: str) -> float:
    seconds = parse_duration_s(text)
    if not 0 < seconds <= DURATION_MAX_S:
        raise ValueError(f"must be more than 0 and at most a year, not {text!r}")
    return seconds


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= COUNT_MAX:
        raise ValueError(f"must be a number from 1 to {COUNT_MAX}, not {text!r}")
    return int(text)


def _version_2(text: str) -> bool:
    if text != "v2":
        raise ValueError(f"must be v2, not {text!r}")
    return True


_KNOWN: dict[str, tuple[str, Callable[[str], Any]]] = {
    "balancing": ("balancing", _balancing),
    "slow-start": ("slow_start_s", _duration_s),
    "removed-endpoints": ("removed_drain_s", _removed),
    "max-connection-age": ("max_connection_age_s", _duration_s),
    "max-connections-per-endpoint": ("max_connections_per_endpoint", _count),
    "queue": ("queue_max", _count),
    "hold": ("hold_s", _duration_s),
    "proxy-protocol": ("proxy_protocol", _version_2),
    "handoff": ("handoff", _handoff),
    "ipvs-scheduler": ("ipvs_scheduler", _ipvs_scheduler),
}
