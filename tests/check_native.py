"""`make check-native`: the native relay's tests again, under sanitizers and in valgrind.

Each build goes into a copy of the package in a temporary directory, so that the one in use is not
touched. A tool that is missing is named with its Debian package; the status is 1 when something
failed, or when nothing could run.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENGINE = Path("uproxy/dataplane/relay/engine")
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
TESTS = ("tests/loop/dataplane", "tests/loop/e2e/test_faults.py", "-k", "(native or engine) and not udp")
FEW_TESTS = (
    *(
        f"tests/loop/dataplane/test_{name}.py"
        for name in ("relay", "dialling", "engine", "engine_connections")
    ),
    *("-k", "native-1 or engine"),
)


@dataclass(frozen=True)
class Check:
    """One way to run the tests."""

    name: str
    flags: tuple[str, ...] = ()
    library: str = ""
    """Has to be loaded before Python's own."""
    prefix: tuple[str, ...] = ()
    tests: tuple[str, ...] = TESTS
    package: str = "gcc"
    environment: dict[str, str] = field(default_factory=dict)


CHECKS = (
    Check(
        "address and undefined behaviour",
        ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
        "libasan.so",
        # Python itself keeps memory until its end, so leaks are looked for by the tests' own counts.
        environment={"ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc", "UPROXY_TESTS_LONG": "1"},
    ),
    Check(
        "threads",
        ("-fsanitize=thread",),
        "libtsan.so",
        prefix=("setarch", "-R"),  # ThreadSanitizer wants its addresses to itself
        environment={"TSAN_OPTIONS": "exitcode=66"},
    ),
    Check(
        "valgrind",
        # What it says of CPython itself is suppressed; the engine's own frames never are.
        prefix=("valgrind", "--quiet", "--error-exitcode=66", "--suppressions=tests/check_native.supp"),
        tests=FEW_TESTS,
        package="valgrind",
        environment={"PYTHONMALLOC": "malloc"},
    ),
)


def main() -> int:
    """Run what can be run."""
    ran = failed = 0
    for check in CHECKS:
        missing = _missing(check)
        if missing:
            print(f"LEFT OUT: {check.name}: apt-get install -y {missing}")
            continue
        ran += 1
        print(f"== {check.name}", flush=True)
        with tempfile.TemporaryDirectory() as directory:
            status = _run(check, Path(directory))
        failed += status != 0
        print(f"== {check.name}: {'passed' if status == 0 else f'FAILED, status {status}'}", flush=True)
    return 1 if failed or not ran else 0


def _missing(check: Check) -> str:
    programs = ("gcc", *check.prefix[:1])
    return check.package if any(shutil.which(program) is None for program in programs) else ""


def _run(check: Check, directory: Path) -> int:
    for name in ("uproxy", "tests"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("_engine*.so"))
    shutil.copy(ROOT / "pyproject.toml", directory)
    _build(check, directory)
    preload = {"LD_PRELOAD": _library(check.library)} if check.library else {}
    environment = {**os.environ, **check.environment, **preload, "PYTHONPATH": str(directory)}
    argv = (*check.prefix, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=1200")
    return subprocess.run((*argv, *check.tests), cwd=directory, env=environment, check=False).returncode


def _build(check: Check, directory: Path) -> None:
    sources = sorted(str(path) for path in (directory / ENGINE).glob("*.c"))
    target = directory / ENGINE.parent / f"_engine{SUFFIX}"
    include = sysconfig.get_paths()["include"]
    common = ("-std=c11", "-O1", "-g", "-fno-omit-frame-pointer", "-fPIC", "-shared", "-pthread")
    subprocess.run(("gcc", *common, *check.flags, f"-I{include}", "-o", str(target), *sources), check=True)


def _library(name: str) -> str:
    """Where gcc has it."""
    found = subprocess.run(("gcc", f"-print-file-name={name}"), capture_output=True, text=True, check=True)
    return found.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
