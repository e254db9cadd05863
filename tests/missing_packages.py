"""Names the Debian packages that would make more possible and are not here.

With `--native`: what the C extensions were not built for want of; else what some tests need.
"""

import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec

from uproxy.kit.commands import find_program

NEEDED = {"ip": "iproute2", "nft": "nftables", "iptables-restore": "iptables", "ipset": "ipset"}
KERNEL_NEEDED = {
    "linux.uml": "user-mode-linux",
    "modprobe": "kmod",
    "ip": "iproute2",
    "ipset": "ipset",
    "iptables-legacy": "iptables",
    "ipvsadm": "ipvsadm",
}
EXTENSIONS = ("uproxy.dataplane.relay._engine", "uproxy.bench.load._native")


def native() -> None:
    if all(find_spec(extension) is not None for extension in EXTENSIONS):
        return
    print(
        "warning: the native relay was not built, the slower one in Python is used: "
        "apt-get install -y gcc python3-dev, then `make clean setup`"
    )


def missing_packages(needed: Mapping[str, str] = NEEDED) -> list[str]:
    """What the netns tier needs, or another, and this machine has not."""
    return sorted({package for program, package in needed.items() if find_program(program) is None})


def main() -> None:
    missing, for_kernel = missing_packages(), missing_packages(KERNEL_NEEDED)
    if for_kernel:
        print(f"the kernel tier (IPVS) is left out: apt-get install -y {' '.join(for_kernel)}")
    if os.geteuid() != 0:
        print("not root: the netns tier (real packets through real rules) is left out; run as root for all")
    elif missing:
        print(f"the netns tier is left out: apt-get install -y {' '.join(missing)}")


if __name__ == "__main__":
    native() if "--native" in sys.argv else main()
