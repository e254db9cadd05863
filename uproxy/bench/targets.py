"""`--target [NAME=]HOST:PORT`: what exists already, and only has to be measured.

Owns reading the flag, and finding out early whether anybody is there. The other end must be
`uproxy bench --echo`, which answers every workload on one port.
"""

import socket
from collections.abc import Sequence
from dataclasses import dataclass

from uproxy.bench.generator import Generator
from uproxy.bench.paths import Address
from uproxy.bench.results import DIRECT
from uproxy.bench.stages import Stage
from uproxy.errors import UproxyError
from uproxy.model.faults import BadInput, Fault

_CONNECT_TIMEOUT_S = 5.0
EXAMPLE = "vip=10.96.0.10:80"


@dataclass(frozen=True, slots=True)
class Target:
    """Something to measure, and what to call it."""

    name: str
    host: str
    port: int


def parse_targets(texts: Sequence[str]) -> tuple[Target, ...]:
    """Read the flags, baseline first: what is called `direct`, or else the first of them.

    Raises BadInput with every mistake.
    """
    faults: list[Fault] = []
    targets: dict[str, Target] = {}
    for text in texts:
        try:
            target = parse_target(text)
        except ValueError as error:
            faults.append(_fault(str(error)))
            continue
        if target.name in targets:
            faults.append(
                _fault(f"{target.name}: two targets have this name; give them names as in {EXAMPLE}")
            )
        targets[target.name] = target
    if faults:
        raise BadInput(tuple(faults))
    return tuple(sorted(targets.values(), key=lambda target: target.name != DIRECT))


def parse_target(text: str) -> Target:
    """`HOST:PORT` or `NAME=HOST:PORT`; HOST may be a name, or an IPv6 address in brackets.

    Raises ValueError, with words for a person.
    """
    name, named, address = text.rpartition("=")
    host, colon, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not colon or not bare or (":" in bare and bare == host) or (named and not name):
        raise ValueError(f"{text!r} is not a target such as {EXAMPLE} or [fd00::10]:80")
    if not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ValueError(f"{text!r}: the port must be 1 to 65535")
    return Target(name or address, bare, int(port))


def check_reachable(targets: Sequence[Target]) -> None:
    """Connect to each once. Raises UproxyError with a line for each that nobody answers."""
    silent = [words for target in targets if (words := _reason_unreachable(target))]
    if silent:
        raise UproxyError("\n".join(silent))


def _reason_unreachable(target: Target) -> str | None:
    try:
        with socket.create_connection((target.host, target.port), timeout=_CONNECT_TIMEOUT_S):
            return None
    except OSError as error:
        where = f"{target.host}:{target.port}" if ":" not in target.host else f"[{target.host}]:{target.port}"
        called = "" if target.name == where else f"{target.name} "
        return (
            f"--target: {called}{where} cannot be reached: {error.strerror or error} "
            "(`uproxy bench --echo ADDR:PORT` is the server to start there)"
        )


def stage(target: Target, client: Generator) -> Stage:
    """Make a target measurable from this machine."""
    address = Address(target.host, target.port)
    return Stage(target.name, client, address, address, carries_udp=True)


def _fault(message: str) -> Fault:
    return Fault("--target", 0, "", None, "", message)
