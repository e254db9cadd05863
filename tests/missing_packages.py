"""Names the Debian packages that would make more possible and are not here.

With `--native`: what the C extensions were not built for want of; else what some tests need.
"""

import os
import shutil
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from uproxy.kit.commands import environment

NEEDED = {"ip": "iproute2", "nft": "nftables", "iptables-restore": "iptables", "ipset": "ipset"}
_INSIDE = NEEDED | {"modprobe": "kmod", "iptables-legacy": "iptables", "ipvsadm": "ipvsadm"}
UML_NEEDED = _INSIDE | {"linux.uml": "user-mode-linux"}
VM_NEEDED = _INSIDE | {
    "qemu-system-x86_64": "qemu-system-x86",
    "virtiofsd": "virtiofsd",  # before Debian 13 it comes with QEMU
    "busybox": "busybox-static",
}
COMPARED = {"dig": "bind9-dnsutils", "haproxy": "haproxy", "nginx": "nginx", "chromium": "chromium"}
KERNEL = Path(__file__).parents[1] / ".kernel"
"""Where `make kernel` has put the kernel that QEMU boots."""
EXTENSIONS = ("uproxy.dataplane.relay._engine", "uproxy.bench.load._native")
PATH = environment()["PATH"] + ":/usr/libexec:/usr/lib/qemu"
"""Where programs are; the last two have virtiofsd."""


def native() -> None:
    if all(find_spec(extension) is not None for extension in EXTENSIONS):
        return
    print(
        "warning: the native relay was not built, the slower one in Python is used: "
        "apt-get install -y gcc python3-dev, then `make clean setup`"
    )


def missing_packages(needed: Mapping[str, str] = NEEDED) -> list[str]:
    """What the netns tier needs, or another, and this machine has not."""
    return sorted({package for program, package in needed.items() if not shutil.which(program, path=PATH)})


def no_vm() -> str | None:
    """Why no kernel can be booted in QEMU here; None where it is worth a try."""
    if missing := missing_packages(VM_NEEDED):
        return f"apt-get install -y {' '.join(missing)}"
    if not KERNEL.is_dir():
        return "`make kernel` fetches the kernel"
    return "not root, as virtiofsd needs" if os.geteuid() else None


def no_uml() -> str | None:
    """Why there is no user-mode-linux here; None where it is worth a try."""
    missing = missing_packages(UML_NEEDED)
    return f"apt-get install -y {' '.join(missing)}" if missing else None


def main() -> None:
    if reason := no_vm():
        alone = "left out" if no_uml() else "by user-mode-linux alone, which is IPVS"
        print(f"the kernel tier is {alone}: {reason}")
    if os.geteuid() != 0:
        print("not root: the netns tier (real packets through real rules) is left out; run as root for all")
    elif missing := missing_packages():
        print(f"the netns tier is left out: apt-get install -y {' '.join(missing)}")
    if missing := missing_packages(COMPARED):
        print(f"what compares with other programs is left out: apt-get install -y {' '.join(missing)}")


if __name__ == "__main__":
    native() if "--native" in sys.argv else main()
