"""Signals from the first moment on, and what programs that are run inherit, in processes of their own."""

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.proxy_process import UPROXY
from uproxy.kit import commands
from uproxy.kit.commands import find_program, run
from uproxy.kit.endings import ENDING

TELLS_CHILDREN = Path("/proc/self/task", str(os.getpid()), "children").exists()
PYTHON = (*UPROXY[:2], sys.executable, "-c")

ALL = """
import os, signal
from uproxy.kit import endings
endings.catch()
heard, ignored = [], []
with endings.telling(lambda: heard.append(number)):
    for number in sorted(endings.ENDING):
        if signal.getsignal(number) is signal.SIG_IGN:
            ignored.append(signal.Signals(number).name)
        else:
            os.kill(os.getpid(), number)
print(len(set(heard)), *ignored)
with endings.telling(lambda: print("late")):
    pass
"""
ADOPTING = """
import ctypes, os, subprocess, time
from uproxy.kit.orphans import reap
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
ours = subprocess.Popen(["sh", "-c", "exit 7"])
adopted = int(subprocess.run(["sh", "-c", "sleep 0 >&- & echo $!"], capture_output=True, text=True).stdout)
os.waitid(os.P_PID, adopted, os.WEXITED | os.WNOWAIT)
first = reap(set())
assert adopted in first, first
assert ours.wait() == 7
reap(first)
print(os.path.exists(f"/proc/{adopted}"), ours.returncode)
"""
EARLY = 'kill -$0 $$; exec "$@"'


async def test_every_signal_that_ends_a_process_is_heard() -> None:
    done = (await run(*PYTHON, ALL)).check()
    assert done.stdout.split() == [str(len(ENDING) - 2), "SIGPIPE", "SIGXFSZ", "late"]
    assert {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1} < ENDING
    assert not ENDING & {signal.SIGSEGV, signal.SIGKILL, signal.SIGCHLD, signal.SIGTSTP, signal.SIGWINCH}


async def test_what_nohup_ignores_stays_ignored_and_what_a_shell_ignores_does_not() -> None:
    script = "trap '' HUP INT QUIT; exec \"$@\""
    done = (await run("sh", "-c", script, "sh", *PYTHON, ALL)).check()
    assert done.stdout.split() == [str(len(ENDING) - 3), "SIGHUP", "SIGPIPE", "SIGXFSZ", "late"]


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT"])
@pytest.mark.parametrize("command", ["run", "check"])
async def test_a_signal_of_the_first_moment_ends_it_before_it_has_looked_at_anything(
    command: str, name: str
) -> None:
    """It comes before Python has begun, and is held back until there is somebody to hear it."""
    argv = (*UPROXY, command, "-f", "/none")
    done = await run("env", f"--block-signal={name}", "sh", "-c", EARLY, name, *argv)
    if "unrecognized" in done.stderr:
        pytest.skip("env cannot block signals here (coreutils 8.31)")
    assert done.stderr == ""
    assert done.status == (0 if command == "run" else -signal.Signals[f"SIG{name}"])


@pytest.mark.skipif(not TELLS_CHILDREN, reason="this kernel has no CONFIG_PROC_CHILDREN")
async def test_orphans_are_reaped_and_our_own_keep_their_status() -> None:
    done = (await run(*PYTHON, ADOPTING)).check()
    assert done.stdout.split() == ["False", "7"]


async def test_programs_have_a_session_of_their_own() -> None:
    done = await run(sys.executable, "-c", "import os; print(os.getsid(0) == os.getpid())")
    assert done.stdout == "True\n"


async def test_programs_are_found_in_sbin_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("first", "sbin"):
        (tmp_path / folder).mkdir()
        program = tmp_path / folder / "tool"
        program.write_text(f"#!/bin/sh\necho {folder} $PATH\n")
        program.chmod(0o755)
    sbin = str(tmp_path / "sbin")
    monkeypatch.setattr(commands, "SBIN", (sbin,))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert find_program("tool") == f"{sbin}/tool"
    assert (await run("tool")).stdout == f"sbin /usr/bin:/bin:{sbin}\n"
    monkeypatch.setenv("PATH", f"{tmp_path}/first:/usr/bin:/bin")
    assert (await run("tool")).stdout.startswith("first ")
    monkeypatch.delenv("PATH")
    assert find_program("sh") is not None
    assert (await run("tool")).stdout.startswith("sbin ")


async def test_an_inherited_descriptor_is_held_by_programs() -> None:
    reading, writing = os.pipe()
    try:
        commands.inherit(writing)
        held = await run("sh", "-c", f"test -e /proc/self/fd/{writing}")
        commands.disinherit(writing)
        gone = await run("sh", "-c", f"test -e /proc/self/fd/{writing}")
        assert (held.status, gone.status) == (0, 1)
    finally:
        os.close(reading)
        os.close(writing)
