"""Capabilities, given up by a process of its own."""

import sys

import pytest

from tests.proxy_process import UPROXY
from uproxy.kit.commands import run
from uproxy.kit.privileges import Capability

PYTHON = (*UPROXY[:2], sys.executable, "-c")
PROGRAM = """
import re, threading
from pathlib import Path
from uproxy.kit.privileges import Capability, keep_capabilities

def sets():
    status = Path("/proc/thread-self/status").read_text()
    return [int(word, 16) for word in re.findall(r"^Cap(?:Prm|Eff|Bnd):\\s(.*)$", status, re.MULTILINE)]

before, why = sets(), keep_capabilities(Capability.NET_BIND_SERVICE)
later = []
thread = threading.Thread(target=lambda: later.append(sets()))
thread.start()
thread.join()
print(before[0], sets() == later[0], *sets(), why)
"""


async def test_all_but_the_kept_ones_are_gone_for_every_later_thread() -> None:
    done = (await run(*PYTHON, PROGRAM)).check()
    before, alike, permitted, effective, bounding, *why = done.stdout.split()
    if not int(before) & 1 << 8:
        pytest.skip("this needs CAP_SETPCAP")
    kept = int(before) & 1 << Capability.NET_BIND_SERVICE
    assert alike == "True"
    assert int(permitted) == int(effective) == int(bounding) == kept
    assert why == []


BESIDE_OTHERS = """
import threading
from uproxy.kit.privileges import keep_capabilities
done = threading.Event()
threading.Thread(target=done.wait).start()
print(keep_capabilities())
done.set()
"""
NO_NEW = """
from pathlib import Path
from uproxy.kit.privileges import keep_capabilities
keep_capabilities()
print(*(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("NoNewPrivs")))
"""


async def test_beside_other_threads_no_capability_is_touched() -> None:
    assert (await run(*PYTHON, BESIDE_OTHERS)).stdout.strip() == "other threads run already"


async def test_no_program_that_is_run_gets_new_ones() -> None:
    assert (await run(*PYTHON, NO_NEW)).stdout.split() == ["NoNewPrivs:", "1"]


async def test_a_score_that_may_not_be_had_is_told() -> None:
    lowered = 'from uproxy.kit.privileges import *; print(set_oom_score_adj(-900) or "done")'
    powerless = ("setpriv", "--inh-caps=-all", "--bounding-set=-all", "--securebits=+noroot")
    refused = await run(*powerless, *PYTHON, lowered)
    if refused.status:
        pytest.skip(f"privileges cannot be given up here: {refused.stderr.strip()}")
    assert refused.stdout.strip() == "permission denied"
    raised = 'from uproxy.kit.privileges import *; print(set_oom_score_adj(500) or "done")'
    assert (await run(*PYTHON, raised)).stdout.strip() == "done"
