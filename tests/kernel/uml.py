"""Debian's user-mode-linux, a kernel that is a program like any other: it has IPVS, but no nf_tables.

Owns booting it, running one command in it (guest.py), and its end. It needs no root, and is faster than a
kernel in QEMU where there is no KVM; it does not boot where the processor has AMX.
"""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.kernel.guest import Ended, KernelFailed, NoKernel, last_words, script
from tests.missing_packages import PATH, no_uml

_MODULES = "/usr/lib/uml/modules"
_LOADED = """ip_vs ip_vs_rr nf_conntrack nf_conntrack_netlink nf_nat veth bridge iptable_nat iptable_filter
iptable_mangle ip6table_nat ip6table_filter ip6table_mangle ip_set ip_set_hash_ipport xt_set xt_ipvs"""
_MEMORY_MIB = 512

# The first process, run twice: on this machine's files, which it cannot write, then on an overlay of them.
# Where nft is the default, iptables is switched to the other kind, for which this kernel has modules.
_INIT = r"""#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
modules=@MODULES@/$(uname -r)
off() { sync; echo o >/proc/sysrq-trigger; while :; do sleep 1; done; }
if [ "$1" != again ]; then
    mount -t proc proc /proc
    mount -t tmpfs -o size=75%,mode=755 tmpfs /run || off
    mkdir /run/upper /run/work /run/root
    grep -qw overlay /proc/filesystems || insmod "$modules/kernel/fs/overlayfs/overlay.ko" || off
    mount -t overlay -o lowerdir=/,upperdir=/run/upper,workdir=/run/work overlay /run/root || off
    cd /run/root
    mount -t proc proc proc
    mount -t sysfs sysfs sys
    mount -t devtmpfs devtmpfs dev
    mkdir -p dev/shm "lib/modules/$(uname -r)"
    mount -t tmpfs -o mode=1777 tmpfs dev/shm
    mount --bind "$modules" "lib/modules/$(uname -r)" || off
    [ -e dev/fd ] || ln -s /proc/self/fd dev/fd
    pivot_root . run || off
    exec chroot . /bin/sh @STATE@/init again </dev/null
fi
umount -l /run
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/netns @STATE@
mount -t hostfs -o @STATE@ hostfs @STATE@ || off
exec >@STATE@/output 2>&1
for program in iptables ip6tables; do
    for suffix in "" -save -restore; do
        [ -L /etc/alternatives/$program$suffix ] &&
            ln -sf /usr/sbin/$program-legacy$suffix /etc/alternatives/$program$suffix
    done
done
ip link set lo up
modprobe -a @LOADED@ || off
: >@STATE@/here
env -i /bin/sh @STATE@/command
echo $? >@STATE@/status
off
"""


def run_in_uml(argv: Sequence[str], state: Path, timeout_s: float) -> Ended:
    """A guest.Way."""
    if reason := no_uml():
        raise NoKernel(f"user-mode-linux: {reason}")
    if re.search(r"[^\w/.-]", str(state)):
        raise NoKernel(f"{state}: the kernel's command line cannot have this name")
    words = {"@STATE@": str(state), "@MODULES@": _MODULES, "@LOADED@": " ".join(_LOADED.split())}
    init = _INIT
    for mark, word in words.items():
        init = init.replace(mark, word)
    (state / "init").write_text(init)
    (state / "init").chmod(0o700)
    (state / "command").write_text(script(argv))
    log, output, status = state / "kernel.log", state / "output", state / "status"
    ended = _boot(state, log, timeout_s)
    if not (state / "here").exists():
        raise NoKernel(f"user-mode-linux: {ended}: {last_words(log)}")
    text = output.read_text(errors="replace") if output.exists() else ""
    if not status.exists():
        raise KernelFailed(f"{ended}\n{text}\nThe kernel's last words:\n{last_words(log)}")
    return Ended(int(status.read_text()), text)


def _boot(state: Path, log: Path, timeout_s: float) -> str:
    """Run the kernel until it powers off; returns how it ended."""
    arguments = (
        f"mem={_MEMORY_MIB}M",
        *("rootfstype=hostfs", "rootflags=/", "ro", f"init={state}/init"),
        *(
            f"uml_dir={state}/",
            "umid=guest",
            "panic=-1",
            "rcupdate.rcu_expedited=1",
            "con=null",
            "con0=null,fd:1",
            "ssl=null",
        ),
    )
    # Its memory is a file, which has to be where programs may be run from.
    environment = {"PATH": PATH, "HOME": str(state), "TMPDIR": "/dev/shm"}
    program = shutil.which("linux.uml", path=PATH) or "linux.uml"
    with (
        log.open("wb") as words,
        subprocess.Popen(
            # It dies with the test run, however that ends.
            ["setpriv", "--pdeathsig=KILL", program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            env=environment,
            start_new_session=True,
        ) as kernel,
    ):
        try:
            return f"the kernel ended with {kernel.wait(timeout_s)}"
        except subprocess.TimeoutExpired:
            return f"the kernel was ended after {timeout_s:g} s"
        finally:
            # What it runs are processes of this machine, all in its own group.
            with suppress(ProcessLookupError):
                os.killpg(kernel.pid, signal.SIGKILL)
