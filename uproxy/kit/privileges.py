"""Privileges: which there are, giving them up, and the place in the queue when memory runs out.

Owns the two system calls for giving up (prctl(2), capset(2)), which Python does not have. They act
on the calling thread only, and new threads are as their makers: so this is for a process that
has no other threads yet. Source: capabilities(7).
"""

import ctypes
import os
from enum import IntEnum
from pathlib import Path
from time import sleep

_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_VERSION_3 = 0x20080522
_WORD = 0xFFFFFFFF
_MOST_LOOKS = 100
_BETWEEN_LOOKS_S = 0.001


class Capability(IntEnum):
    """Those that anybody here may want; the numbers are the kernel's."""

    DAC_READ_SEARCH = 2
    NET_BIND_SERVICE = 10
    NET_ADMIN = 12
    NET_RAW = 13


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def has(capability: Capability) -> bool:
    """Whether this process has it in its effective set."""
    return bool(parse_capabilities(Path("/proc/self/status").read_text()) >> capability & 1)


def parse_capabilities(status: str) -> int:
    """The effective set, from the text of /proc/PID/status (proc(5), capabilities(7))."""
    lines = (line for line in status.splitlines() if line.startswith("CapEff:"))
    return int(next(lines, "CapEff: 0").split()[1], 16)


def keep_capabilities(*kept: Capability) -> str:
    """Give up every capability but these, for good; returns why that is not complete, or nothing.

    What the process has not got it does not get. The bounding set, which limits the programs
    that are run from here, is narrowed where CAP_SETPCAP allows; where a container engine has set it,
    that is not needed.
    """
    if why := no_new_privileges():
        return why
    if not _alone():
        return "other threads run already"
    libc = ctypes.CDLL(None, use_errno=True)
    mask = sum(1 << capability for capability in kept)
    unlimited = _narrow_bounding_set(libc, mask)
    header, sets = _Header(_VERSION_3, 0), (_Sets * 2)()
    if libc.capget(ctypes.byref(header), sets) < 0:
        return _errno_words("capget")
    for half, word in enumerate(sets):
        allowed = mask >> (32 * half) & _WORD
        word.effective &= allowed
        word.permitted &= allowed
        word.inheritable &= allowed
    if libc.capset(ctypes.byref(header), sets) < 0:
        return _errno_words("capset")
    return unlimited


def no_new_privileges() -> str:
    """Neither this thread nor what it starts gets any by running a program, whatever that program's file
    says (no_new_privs in prctl(2)); returns why not, or nothing. It takes no right, and is for good."""
    libc = ctypes.CDLL(None, use_errno=True)
    return _errno_words("no_new_privs") if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 else ""


def _alone() -> bool:
    """Whether no other thread runs. One that was joined is seen by the kernel for a moment longer."""
    for _ in range(_MOST_LOOKS):
        if len(list(Path("/proc/self/task").iterdir())) == 1:
            return True
        sleep(_BETWEEN_LOOKS_S)
    return False


def _narrow_bounding_set(libc: ctypes.CDLL, mask: int) -> str:
    number = 0
    while (present := libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0)) >= 0:
        if present and not mask >> number & 1 and libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) < 0:
            return _errno_words("the bounding set")
        number += 1
    return ""


def _errno_words(what: str) -> str:
    return f"{what}: {os.strerror(ctypes.get_errno()).lower()}"


def set_oom_score_adj(score: int) -> str:
    """Have the kernel end this process sooner (up to 1000) or later (down to -1000) than others when
    memory runs out; returns why not, or nothing. To lower it needs CAP_SYS_RESOURCE (proc(5))."""
    try:
        Path("/proc/self/oom_score_adj").write_text(str(score))
    except OSError as error:
        return os.strerror(error.errno or 0).lower()
    return ""
