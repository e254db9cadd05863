"""Fetches Debian's newest kernel, that of its cloud images, into .kernel/ (`make kernel`).

Owns the choice of the package: the names are Debian's, on x86-64. Refuses to install it. Where there is
none, it says so in one line.
"""

import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.missing_packages import KERNEL, PATH

META = "linux-image-cloud-amd64"


def main() -> int:
    try:
        print(f"{_fetched()} is in {KERNEL.name}/: the kernel tier boots it")
    except (subprocess.CalledProcessError, OSError, LookupError) as error:
        said = getattr(error, "stderr", "") or str(error)
        print(f"no kernel for the kernel tier, which is left out: {said.strip()}", file=sys.stderr)
        return 1
    return 0


def _fetched() -> str:
    if platform.machine() != "x86_64":
        raise LookupError(f"it knows Debian's for x86_64 only, this is {platform.machine()}")
    name = _newest()
    with tempfile.TemporaryDirectory(dir=KERNEL.parent, prefix=".kernel-") as folder:
        _run("apt-get", "-qq", "download", name, cwd=folder)
        (package,) = Path(folder).glob("*.deb")
        made = Path(folder) / "made"
        _run("dpkg-deb", "-x", str(package), str(made))
        (modules,) = (made / "lib/modules").iterdir()
        _run("depmod", "-b", str(made), modules.name)
        shutil.rmtree(KERNEL, ignore_errors=True)
        made.rename(KERNEL)
    return name


def _newest() -> str:
    for line in _run("apt-cache", "depends", META).splitlines():
        if found := re.fullmatch(r"\s*Depends: (linux-image-\d\S*)", line):
            return found[1]
    raise LookupError(f"there is no package {META} here")


def _run(*argv: str, cwd: str | None = None) -> str:
    env = {"PATH": PATH, "LC_ALL": "C"}
    return subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, check=True).stdout  # noqa: TID251


if __name__ == "__main__":
    sys.exit(main())
