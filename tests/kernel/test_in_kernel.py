"""Runs tests in a kernel of our own, each group in one of its own, and passes on what they say."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.kernel.guest import NoKernel, Way, run_by_the_first
from tests.kernel.uml import run_in_uml
from tests.kernel.vm import run_in_vm

HERE = Path(__file__).parent
INSIDE = HERE / "inside"
TIMEOUT_S = 1800.0
INSIDE_S = 900
"""For one test. It takes seconds; emulated, on a busy machine, a hundred times that."""
IPVS: Sequence[Way] = (run_in_uml, run_in_vm)
"""user-mode-linux first: it takes a third of the time that emulation does."""


class Group(NamedTuple):
    """Tests that run in one guest."""

    ways: Sequence[Way]
    files: Sequence[Path]


GROUPS: dict[str, Group] = {
    "ipvs_moves": Group(IPVS, [INSIDE / "ipvs_moves.py"]),
    "ipvs_proxy": Group(IPVS, [INSIDE / "ipvs_proxy.py"]),
    "ipvs_traffic": Group(IPVS, [INSIDE / "ipvs_traffic.py"]),
    "whole_proxy": Group([run_in_vm], [INSIDE / "whole_proxy.py"]),
}
_TOLD = re.compile(r"^test_\w+: .*", re.MULTILINE)


@pytest.mark.timeout(TIMEOUT_S + 600)
@pytest.mark.parametrize("group", GROUPS)
def test_in_a_kernel_of_our_own(
    group: str, tmp_path: Path, request: pytest.FixtureRequest, tell: Callable[[str], None]
) -> None:
    ways, files = GROUPS[group]
    words = [sys.executable, "-m", "pytest", *map(str, files), "-o", f"timeout={INSIDE_S}"]
    words += ["-p", "tests.kernel.inside.patience"]
    words += ["-p", "no:cacheprovider", "-p", "no:xdist", "-v", "--color=no", "-rA", "--durations=8"]
    # What pytest is told here, as `-k "ipvs and flows"`, is about this test; the rest is for those inside.
    if chosen := request.config.getoption("--inside"):
        words += ["-k", chosen]
    _compile([*words, "--collect-only"])
    try:
        status, output = run_by_the_first(ways, words, tmp_path, TIMEOUT_S)
    except NoKernel as reason:
        pytest.skip(str(reason))
    for line in _TOLD.findall(output):
        tell(line)
    if status:
        pytest.fail(f"inside the kernel:\n{output}", pytrace=False)


def _compile(collecting: Sequence[str]) -> None:
    """Leave byte code beside the sources, as the guest keeps nothing, and would compile for minutes."""
    environment = {name: word for name, word in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for argv in ([sys.executable, "-m", "compileall", "-q", str(HERE.parents[1] / "uproxy")], collecting):
        subprocess.run(argv, env=environment, stdout=subprocess.DEVNULL, check=False)  # noqa: TID251
