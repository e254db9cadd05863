"""Running other programs: the one door to subprocesses.

Owns starting a program, feeding it, collecting its output. Refuses shells: argv only.
"""

import asyncio
from dataclasses import dataclass

from uproxy.errors import CommandFailed


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
    """Run a program to its end.

    Raises CommandFailed when it cannot be started at all; a non-zero exit is a value.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise CommandFailed(f"{argv[0]}: cannot be run: {error.strerror}") from error
    out, err = await process.communicate(stdin.encode())
    return Completed(
        argv, process.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace")
    )
