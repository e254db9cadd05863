"""Where a plan's traffic goes: the first address of its host that answers as it should.

Owns names, descriptors and one trial exchange, so that a wrong target is one clear line and not
a run full of errors. Refuses to time anything.
"""

import errno
import resource
import socket
from typing import NamedTuple

from uproxy.bench.load import wire
from uproxy.bench.load.plan import LoadPlan
from uproxy.errors import UproxyError

_ATTEMPTS = 3
"""A server that fails some requests on purpose, and a lost datagram, are no wrong target."""
_SPARE_DESCRIPTORS = 64


class Target(NamedTuple):
    """An address, resolved."""

    family: socket.AddressFamily
    ip: str
    port: int
    scope_id: int

    @property
    def socket_address(self) -> tuple[str, int] | tuple[str, int, int, int]:
        """What socket.connect takes."""
        if self.family == socket.AF_INET6:
            return self.ip, self.port, 0, self.scope_id
        return self.ip, self.port


def find_target(plan: LoadPlan) -> Target:
    """Resolve the plan's host, and have one exchange with it.

    Raises UproxyError when no address answers, or something else than what the plan expects does.
    """
    try:
        found = socket.getaddrinfo(plan.host, plan.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UproxyError(f"{plan.host}: {error.strerror}") from error
    reason = ""
    for family, _, _, _, address in found:
        scope_id = int(address[3]) if len(address) > 3 else 0
        target = Target(family, str(address[0]).partition("%")[0], plan.port, scope_id)
        reason = _reason_against(target, plan)
        if not reason:
            return target
    raise UproxyError(f"{plan.host}:{plan.port} {reason}")


def raise_descriptor_limit(connections: int = 0) -> None:
    """Allow this process as many connections as the machine's hard limit does.

    Raises UproxyError when those are fewer than asked for.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and connections + _SPARE_DESCRIPTORS > hard:
        raise UproxyError(f"{connections} connections: the limit of open files is {hard} (ulimit -Hn)")


def _reason_against(target: Target, plan: LoadPlan) -> str:
    reason = ""
    for _ in range(_ATTEMPTS):
        try:
            _try_exchange(target, plan)
            return ""
        except wire.Mismatch:
            return f"answers, but not as {_expected(plan)} does"
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL and _is_routed(target):
                return ""  # only local ports are lacking, in TIME_WAIT after an earlier run
            reason = f"does not answer: {error.strerror or error}"
    return reason


def _is_routed(target: Target) -> bool:
    """Whether this machine has an address to reach the target from. UDP has ports of its own."""
    with socket.socket(target.family, socket.SOCK_DGRAM) as probe:
        return probe.connect_ex(target.socket_address) == 0


def _expected(plan: LoadPlan) -> str:
    return "a web server" if plan.protocol == "http" else "the server of uproxy bench"


def _try_exchange(target: Target, plan: LoadPlan) -> None:
    is_udp = plan.workload == "udp-rr"
    kind = socket.SOCK_DGRAM if is_udp else socket.SOCK_STREAM
    with socket.socket(target.family, kind) as trial:
        # A datagram that is lost is asked for again soon; a handshake has the kernel's own retries.
        trial.settimeout(min(plan.timeout_s, 1.0) if is_udp else plan.timeout_s)
        trial.connect(target.socket_address)
        if plan.protocol == "http":
            trial.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
            if not trial.recv(4096).startswith(b"HTTP/1."):
                raise wire.Mismatch
        else:
            trial.sendall(wire.exchange(wire.HEADER, wire.HEADER, 1))
            _read_reply(trial)


def _read_reply(trial: socket.socket) -> None:
    reply = wire.Incoming()
    while not reply.whole:
        data = trial.recv(wire.HEADER)
        if not data:
            raise ConnectionResetError("it closed the connection")
        reply.feed(data)
    if reply.header.kind != wire.Kind.REPLY:
        raise wire.Mismatch
