"""What everybody here who programs netfilter has in common: the proxy's mark, and how iptables is spoken to.

Owns reading what `iptables-save` prints, removing what has our prefixes, and trying rules where they do no
harm. Refuses to know anybody's chains. Families are 4 and 6. Sources: iptables-save(8), iptables-restore(8),
unshare(1).
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from uproxy.errors import CommandFailed
from uproxy.kit.commands import run
from uproxy.kit.programs import complaint, execute

PROXY_MARK = 0x3070
"""SO_MARK of the proxy's own dials: packets whose whole mark is this are left alone. No bit of it is
one of kube-proxy's (0x4000, 0x8000), whose rules would give a dial another address."""
PROGRAM = {4: "iptables", 6: "ip6tables"}
# Another run of iptables may hold the lock; kube-proxy waits 5 s for it too.
_RESTORE_FLAGS = ("--noflush", "--wait", "5")


def table(name: str, lines: Iterable[str]) -> str:
    """Input for `iptables-restore`: one table, one commit."""
    return "".join(f"{line}\n" for line in (f"*{name}", *lines, "COMMIT"))


def chains(saved: str, name: str, prefix: str) -> list[str]:
    """The chains of a table that begin with `prefix`; `saved` is what `iptables-save` prints."""
    lines = _section(saved, name)
    return [line.split()[0].removeprefix(":") for line in lines if line.startswith(f":{prefix}")]


def jumps_gone(saved: str, name: str, prefix: str) -> list[str]:
    """Deletions of the rules in other chains that lead to those."""
    rules = [line for line in _section(saved, name) if line.startswith("-A ") and f"-j {prefix}" in line]
    return [f"-D {rule.removeprefix('-A ')}" for rule in rules if not rule.startswith(f"-A {prefix}")]


def leftovers_gone(saved: str, name: str, prefix: str) -> list[str]:
    """Deletions of the chains too."""
    ours = chains(saved, name, prefix)
    flushed, deleted = (f"-F {chain}" for chain in ours), (f"-X {chain}" for chain in ours)
    return [*jumps_gone(saved, name, prefix), *flushed, *deleted] if ours else []


def render_removal(saved: str, tables: Iterable[str], prefix: str) -> str:
    """Input for `iptables-restore --noflush` that removes all of them; empty when there are none."""
    gone = ((name, leftovers_gone(saved, name, prefix)) for name in tables)
    return "".join(table(name, lines) for name, lines in gone if lines)


def _section(saved: str, name: str) -> list[str]:
    """The lines of one table."""
    _, _, rest = f"\n{saved}".partition(f"\n*{name}\n")
    return rest.partition("\nCOMMIT")[0].splitlines()


def census(text: str, prefix: str) -> Counter[tuple[str, str]]:
    """By table and chain, how many rules there are in chains that begin with `prefix`, and in others that
    lead to those. `text` is what `iptables-save` prints, or what is to be restored."""
    found: Counter[tuple[str, str]] = Counter()
    name = ""
    for line in text.splitlines():
        if line.startswith("*"):
            name = line[1:]
        elif line.startswith(("-A ", "-I ")):
            chain = line.split(" ", 2)[1]
            if chain.startswith(prefix) or f"-j {prefix}" in line:
                found[name, chain] += 1
    return found


async def lost_rules(family: int, wanted: Counter[tuple[str, str]], prefix: str) -> str | None:
    """Where there are fewer of ours than there should be, in words. Raises CommandFailed."""
    there = census(await execute(f"{PROGRAM[family]}-save"), prefix)
    for (name, chain), count in (wanted - there).items():
        return f"{PROGRAM[family]} {name} {chain} lacks {count} rules"
    return None


async def set_sizes() -> dict[str, int]:
    """All ipsets, and how many elements they have. Raises CommandFailed."""
    found, name = {}, ""
    for line in (await execute("ipset", "list", "-terse")).splitlines():
        word, _, value = line.partition(": ")
        if word == "Name":
            name = value
        elif word == "Number of entries":
            found[name] = int(value)
    return found


async def restore(family: int, text: str) -> None:
    """Add to what is there. Raises CommandFailed; tables before the one that failed are changed then."""
    await execute(f"{PROGRAM[family]}-restore", *_RESTORE_FLAGS, stdin=text)


async def remove_chains(family: int, saved: str, tables: Sequence[str], prefix: str) -> list[str]:
    """Remove chains and jumps; returns what was there, in words. Raises CommandFailed."""
    if removal := render_removal(saved, tables, prefix):
        await restore(family, removal)
    found = ((name, chain) for name in tables for chain in chains(saved, name, prefix))
    return [f"{PROGRAM[family]} {name} chain {chain}" for name, chain in found]


async def trial(script: str, *texts: str, readable: Iterable[Sequence[str]]) -> str | None:
    """Why this machine does not take `texts`; None when it does. `script` is a shell's, which finds them in
    $1 and so on, in a network namespace that is thrown away.

    A pod with CAP_NET_ADMIN alone may not make namespaces. That the programs `readable` can read what is
    there is the best that can be known then without touching it.
    """
    try:
        done = await run("unshare", "--net", "sh", "-c", script, "sh", *texts)
        if not done.status:
            return None
        finding = complaint(done.stderr or done.stdout)
        if not finding.startswith("unshare:"):
            return finding
        for words in readable:
            await execute(*words)
    except CommandFailed as error:
        return str(error)
    return None
