"""Runs the tests of `inside/`, each file in a kernel of its own, and passes on what they say."""

import sys
from pathlib import Path

import pytest

from tests.kernel.uml import run_in_kernel

HERE = Path(__file__).parent
FILES = sorted(path.name for path in (HERE / "inside").glob("ipvs_*.py"))
TIMEOUT_S = 150.0


@pytest.mark.timeout(TIMEOUT_S + 30)
@pytest.mark.parametrize("name", FILES)
def test_in_a_kernel_with_ipvs(
    name: str, tmp_path: Path, request: pytest.FixtureRequest, record_property
) -> None:
    words = [sys.executable, "-B", "-m", "pytest", str(HERE / "inside" / name)]
    words += ["-p", "no:cacheprovider", "-p", "no:xdist", "-q", "--color=no", "-rA", "--durations=8"]
    # What pytest is told here, as `-k "ipvs and flows"`, is about this test; the rest is for those inside.
    if chosen := request.config.getoption("--inside"):
        words += ["-k", chosen]
    status, output = run_in_kernel(words, tmp_path, TIMEOUT_S)
    record_property("inside", output[-4000:])
    if status:
        pytest.fail(f"inside the kernel:\n{output}", pytrace=False)
