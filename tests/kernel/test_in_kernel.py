"""Runs the tests of `inside/`, each file in a kernel of its own, and passes on what they say."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernel.uml import run_in_kernel

HERE = Path(__file__).parent
FILES = sorted(path.name for path in (HERE / "inside").glob("ipvs_*.py"))
TIMEOUT_S = 480.0
_TOLD = re.compile(r"^test_\w+: .*", re.MULTILINE)


@pytest.mark.timeout(TIMEOUT_S + 30)
@pytest.mark.parametrize("name", FILES)
def test_in_a_kernel_with_ipvs(
    name: str, tmp_path: Path, request: pytest.FixtureRequest, tell: Callable[[str], None]
) -> None:
    words = [sys.executable, "-B", "-m", "pytest", str(HERE / "inside" / name)]
    words += ["-p", "no:cacheprovider", "-p", "no:xdist", "-q", "--color=no", "-rA", "--durations=8"]
    # What pytest is told here, as `-k "ipvs and flows"`, is about this test; the rest is for those inside.
    if chosen := request.config.getoption("--inside"):
        words += ["-k", chosen]
    status, output = run_in_kernel(words, tmp_path, TIMEOUT_S)
    for line in _TOLD.findall(output):
        tell(line)
    if status:
        pytest.fail(f"inside the kernel:\n{output}", pytrace=False)
