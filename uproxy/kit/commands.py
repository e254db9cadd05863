"""Running other programs: the one door to subprocesses.

Owns starting a program, feeding it, collecting its output. Refuses shells: argv only.
"""

import subprocess
from dataclasses import dataclass

from uproxy.errors import CommandFailed
from uproxy.kit.threads import in_thread


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
            argv, input=stdin.encode(), capture_output=True, check=False
        )
    except OSError as error:
        raise CommandFailed(f"{argv[0]}: cannot be run: {error.strerror}") from error
    out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    return Completed(argv, done.returncode, out, err)
