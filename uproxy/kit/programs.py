"""Running the kernel's own programs: ip, nft, ipset, iptables.

Owns telling which of the lines that they print on failure is worth showing. Starting and
feeding them is `uproxy.kit.commands`.
"""

from uproxy.errors import CommandFailed
from uproxy.kit.commands import run


async def execute(*argv: str, stdin: str = "") -> str:
    """Run a program and return what it printed.

    Raises CommandFailed, with one line of its complaint, when it fails or is not there.
    """
    done = await run(*argv, stdin=stdin)
    if done.status:
        raise CommandFailed(f"{argv[0]}: {complaint(done.stderr or done.stdout)}")
    return done.stdout


def complaint(text: str) -> str:
    """The line that says what is wrong: the first, since pointers into the input follow it."""
    # iptables-nft opens with `# Warning: iptables-legacy tables present`, which is no error.
    lines = (line.strip() for line in text.splitlines())
    return next((line for line in lines if line and not line.startswith("#")), "no reason given")


async def peek(*argv: str) -> str:
    """What a program prints that only looks; nothing where it is missing or cannot look here.

    A kernel without a facility has nothing of ours in it.
    """
    try:
        return await execute(*argv)
    except CommandFailed:
        return ""
