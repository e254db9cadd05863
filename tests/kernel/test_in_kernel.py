"""Runs tests in a kernel of our own, each group in one of its own, and passes on what they say."""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.kernel.guest import NoKernel, Way, run_by_the_first
from tests.kernel.uml import run_in_uml
from tests.kernel.vm import run_in_vm

HERE = Path(__file__).parent
INSIDE = HERE / "inside"
TIMEOUT_S = 1200.0
INSIDE_S = 400
"""For one test. It takes seconds; emulated, on a busy machine, a hundred times that."""
IPVS: Sequence[Way] = (run_in_uml, run_in_vm)
"""user-mode-linux first: it takes a third of the time that emulation does."""
GROUPS: dict[str, tuple[Sequence[Way], Sequence[Path]]] = {
    "ipvs_moves": (IPVS, [INSIDE / "ipvs_moves.py"]),
    "ipvs_proxy": (IPVS, [INSIDE / "ipvs_proxy.py"]),
    "ipvs_traffic": (IPVS, [INSIDE / "ipvs_traffic.py"]),
    "nf_tables": ([run_in_vm], [INSIDE / "whole_proxy.py", HERE.parent / "netns/kernel"]),
}
_TOLD = re.compile(r"^test_\w+: .*", re.MULTILINE)


@pytest.mark.timeout(TIMEOUT_S + 600)
@pytest.mark.parametrize("group", GROUPS)
def test_in_a_kernel_of_our_own(
    group: str, tmp_path: Path, request: pytest.FixtureRequest, tell: Callable[[str], None]
) -> None:
    ways, files = GROUPS[group]
    words = [sys.executable, "-B", "-m", "pytest", *map(str, files), "-o", f"timeout={INSIDE_S}"]
    words += ["-p", "no:cacheprovider", "-p", "no:xdist", "-q", "--color=no", "-rA", "--durations=8"]
    # What pytest is told here, as `-k "ipvs and flows"`, is about this test; the rest is for those inside.
    if chosen := request.config.getoption("--inside"):
        words += ["-k", chosen]
    try:
        status, output = run_by_the_first(ways, words, tmp_path, TIMEOUT_S)
    except NoKernel as reason:
        pytest.skip(str(reason))
    for line in _TOLD.findall(output):
        tell(line)
    if status:
        pytest.fail(f"inside the kernel:\n{output}", pytrace=False)
