"""Running other programs: the one door to subprocesses.

Owns finding a program, starting and feeding it, collecting its output, and what it inherits. Refuses
shells: argv only.

A program that is run has a session of its own: Ctrl-C and the end of a terminal are this process's to
answer, which may be just about to remove its rules by that program.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass

from uproxy.errors import CommandFailed
from uproxy.kit.threads import in_thread

SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Where `ip`, `nft` and `iptables` are. Debian's PATH of users has none of them, nor has that of root
after a plain `su` (login.defs(5), ENV_PATH)."""

_inherited: set[int] = set()


def environment() -> dict[str, str]:
    """What programs are run with: ours, and a PATH that ends with every folder of SBIN."""
    given = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.environ | {"PATH": os.pathsep.join([*given, *(sbin for sbin in SBIN if sbin not in given)])}


def find_program(name: str) -> str | None:
    """The path of a program, in PATH or in SBIN; None when it is not installed."""
    return shutil.which(name, path=environment()["PATH"])


def inherit(descriptor: int) -> None:
    """Have every program that is run from now on keep `descriptor` open until it ends, so that what it
    stands for outlives a process that is killed, for as long as its programs are at work."""
    _inherited.add(descriptor)


def disinherit(descriptor: int) -> None:
    """No longer."""
    _inherited.discard(descriptor)


@dataclass(frozen=True, slots=True)
class Completed:
    """How a program ended: its exit status and everything that it printed."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str

    def check(self) -> "Completed":
        """Return itself when the status is 0.

        Raises CommandFailed, with the program's own last words, otherwise.
        """
        if self.status:
            words = (self.stderr or self.stdout).strip().splitlines() or ["no output"]
            raise CommandFailed(f"{' '.join(self.argv)}: exit {self.status}: {words[-1]}")
        return self


async def run(*argv: str, stdin: str = "") -> Completed:
    """Run a program to its end, in a thread: the event loop goes on meanwhile.

    Raises CommandFailed when it cannot be started at all; a non-zero exit is a value.
    """
    return await in_thread(_run, argv, stdin)


def _run(argv: tuple[str, ...], stdin: str) -> Completed:
    # Not asyncio's subprocesses: a program that ends without reading its input makes
    # uvloop's raise (seen with 0.23), and each costs the loop a child watcher.
    try:
        done = subprocess.run(  # noqa: TID251 - the one place
            argv,
            input=stdin.encode(),
            capture_output=True,
            check=False,
            env=environment(),
            pass_fds=tuple(_inherited),
            start_new_session=True,
        )
    except OSError as error:
        raise CommandFailed(f"{argv[0]}: cannot be run: {error.strerror}") from error
    out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    return Completed(argv, done.returncode, out, err)
