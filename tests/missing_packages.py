"""Names the Debian packages that some tests would need and that are not here, before they run."""

import os
import shutil

NEEDED = {"ip": "iproute2", "nft": "nftables", "iptables-restore": "iptables", "ipset": "ipset"}
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def main() -> None:
    missing = sorted({package for program, package in NEEDED.items() if not shutil.which(program, path=PATH)})
    if os.geteuid() != 0:
        print("not root: the netns tier (real packets through real rules) is left out; run as root for all")
    elif missing:
        print(f"parts of the netns tier are left out: apt-get install -y {' '.join(missing)}")


main()
