"""One uproxy at a time may program a machine's network.

Owns the lock. It belongs to the network namespace, as rules and routes do; it is gone with the process
that held it, however that ended, and with the last program that this process had started; and only who
may program the network can hold it. Whoever is to hold it next can wait at it (`knock`); what the two say
to each other is `app/succession.py`.

It is two sockets of one random number. The *claim* is of netlink's family netfilter, and a member of one
of its groups, which takes CAP_NET_ADMIN in this namespace. /proc/net/netlink shows everybody who has one.
There is no one name to be taken: a process makes its claim, and looks whether it is the only one. The
*door* is an abstract Unix socket (unix(7)), at which a successor waits. See docs/decisions/0013-lock.md,
also for kernels without netfilter. Source: netlink(7), `netlink_bind` in net/netlink/af_netlink.c.
"""

import errno
import os
import secrets
import select
import socket
import struct
from pathlib import Path
from random import uniform
from time import monotonic, sleep

from uproxy.errors import UproxyError
from uproxy.kit.commands import disinherit, inherit

HELD = "another uproxy programs this machine's network: stop it first"
NOT_ALLOWED = "not granted for this network: it belongs to another user namespace"

_NETLINK_NETFILTER = 12
_GROUP = 1 << 7
"""NFNLGRP_ACCT_QUOTA (linux/netfilter/nfnetlink.h), the quietest: what a member gets is never read."""
_OURS = 0x75 << 24
"""Of the numbers of claims. Neither a process nor the kernel's own choice has one like that."""
_NUMBERS = 1 << 24
_SHARED = 0
"""The number that all have where there are no claims."""
_NAME = "\0uproxy/steering"
_BACKLOG = 8
_STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_UCRED = struct.Struct("3i")
"""Process, user and group (unix(7), SO_PEERCRED)."""
PATIENCE_S = 1.0
"""For two that begin at once, and for the programs of one that was killed to end."""
_PAUSE_S = (0.002, 0.03)


class LockHeld(UproxyError):
    """Another process has the lock."""


class SteeringLock:
    """Held from the start until `release`."""

    def __init__(self, patience_s: float = 0.0) -> None:
        """Take the lock. Raises LockHeld when another process still has it after `patience_s`,
        UproxyError when this one may not."""
        until_s = monotonic() + patience_s
        while not self._take():
            if monotonic() >= until_s:
                raise LockHeld(HELD)
            sleep(uniform(*_PAUSE_S))

    def _take(self) -> bool:
        """Whether nobody else has it. Of two that ask at once none may get it, and never both do."""
        number, self._door = _new_door()
        claim = _new_claim(number)
        if claim is None:
            self._door.close()
            self._door = _shared_door()
        self._claim = claim or self._door
        if claim is not None and _claims() != {number}:
            claim.close()
            self._door.close()
            return False
        inherit(self._claim.fileno())
        return True

    def fileno(self) -> int:
        """Readable when somebody has come."""
        return self._door.fileno()

    def visitors(self) -> list[socket.socket]:
        """Those that have come to wait at the lock, and are the same user or root."""
        found: list[socket.socket] = []
        while True:
            try:
                visitor, _ = self._door.accept()
            except OSError:
                return found
            visitor.setblocking(False)
            if _counts(visitor):
                found.append(visitor)
            else:
                visitor.close()

    def release(self) -> None:
        """Let others have it."""
        disinherit(self._claim.fileno())
        self._door.close()
        self._claim.close()


def may_hold() -> bool:
    """Whether this process may program the network of this namespace, as far as the lock can tell."""
    try:
        trial = _netfilter(0)  # a number that the kernel gives, which is no claim
    except OSError:
        return False
    if trial is not None:
        trial.close()
    return True


def is_held() -> bool:
    """Whether somebody else has the lock now. For who does not."""
    try:
        knock().close()
    except OSError:
        return bool(_claims())
    return True


def knock() -> socket.socket:
    """Wait at the lock: a connection to whoever holds it, which ends with that process.

    Raises OSError when nobody holds it.
    """
    refused: OSError = ConnectionRefusedError("nobody holds the lock")
    for number in sorted(_claims()) or [_SHARED]:
        try:
            return _visit(number)
        except OSError as error:
            refused = error
    raise refused


def is_gone(peer: socket.socket) -> bool:
    """Whether the other side has ended, whatever it said before."""
    poll = select.poll()
    poll.register(peer, select.POLLRDHUP)
    return bool(poll.poll(0))


def _new_claim(number: int) -> socket.socket | None:
    """Shown to everybody from now on; None where the kernel has no such sockets.

    Raises UproxyError without CAP_NET_ADMIN in the user namespace that this network belongs to.
    """
    try:
        return _netfilter(_OURS | number)
    except PermissionError as error:
        raise UproxyError(f"CAP_NET_ADMIN is {NOT_ALLOWED}") from error
    except OSError as error:
        raise LockHeld(HELD) from error  # by the very number, of 2^24


def _netfilter(number: int) -> socket.socket | None:
    """A member of the group. None where the kernel has no such sockets: gVisor, small kernels.

    Raises OSError.
    """
    try:
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    except OSError:
        return None
    try:
        made.bind((number, _GROUP))
    except OSError:
        made.close()
        raise
    return made


def _claims() -> set[int]:
    """The numbers of everybody who has a claim in this network namespace."""
    try:
        lines = Path("/proc/thread-self/net/netlink").read_text().splitlines()[1:]
    except OSError:
        return set()
    found = set()
    for line in lines:
        _, family, portid, groups, *_ = line.split()
        is_ours = int(family) == _NETLINK_NETFILTER and int(portid) & ~(_NUMBERS - 1) == _OURS
        if is_ours and int(groups, 16) & _GROUP:
            found.add(int(portid) & (_NUMBERS - 1))
    return found


def _new_door() -> tuple[int, socket.socket]:
    """One of a number that nobody has yet, however many somebody has taken."""
    while True:
        number = 1 + secrets.randbelow(_NUMBERS - 1)
        try:
            return number, _door(number)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise UproxyError(f"no lock can be had: {error.strerror}") from error


def _shared_door() -> socket.socket:
    """The lock where there are no claims: whoever may program the network has the one name.

    Raises LockHeld while it is had by root or by our own user. Who does not listen there, or is somebody
    else, is passed over.
    """
    for _ in range(2):  # it may have become free in between
        try:
            return _door(_SHARED)
        except OSError:
            try:
                _visit(_SHARED).close()
            except (PermissionError, ConnectionRefusedError):
                continue
            except OSError:
                pass
            raise LockHeld(HELD) from None
    return _new_door()[1]


def _door(number: int) -> socket.socket:
    door = socket.socket(socket.AF_UNIX, _STREAM)
    try:
        door.bind(f"{_NAME}/{number:06x}")
        door.listen(_BACKLOG)
    except OSError:
        door.close()
        raise
    return door


def _visit(number: int) -> socket.socket:
    """Raises PermissionError when somebody has it who does not count."""
    visitor = socket.socket(socket.AF_UNIX, _STREAM)
    try:
        visitor.connect(f"{_NAME}/{number:06x}")
        if number == _SHARED and not _counts(visitor):
            raise PermissionError("the lock is held by somebody else")
    except OSError:
        visitor.close()
        raise
    return visitor


def _counts(peer: socket.socket) -> bool:
    _, user, _ = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return user in (0, os.geteuid())
