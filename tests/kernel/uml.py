"""A private Linux kernel that has IPVS: Debian's user-mode-linux, which is a program like any other.

Owns booting it, running one command in it as root, and its end. The command sees this machine's files, of
which none can be changed: what it writes is in the memory of that kernel, and gone with it. Its network is
empty but for `lo`. Refuses to install anything.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_PATH = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/local/sbin:/usr/sbin:/sbin"
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
env -i /bin/sh @STATE@/command
echo $? >@STATE@/status
off
"""


class KernelFailed(Exception):
    """It did not boot, or did not live to the command's end."""


def run_in_kernel(argv: Sequence[str], state: Path, timeout_s: float) -> tuple[int, str]:
    """Run a command to its end; returns its exit status and its output. `state` is an empty directory.

    Raises KernelFailed, with what there is of the output, when there is no exit status.
    """
    if re.search(r"[^\w/.-]", str(state)):
        raise KernelFailed(f"{state}: the kernel's command line cannot have this name")
    words = {"@STATE@": str(state), "@MODULES@": _MODULES, "@LOADED@": " ".join(_LOADED.split())}
    init = _INIT
    for mark, word in words.items():
        init = init.replace(mark, word)
    (state / "init").write_text(init)
    (state / "init").chmod(0o700)
    (state / "command").write_text(_script(argv))
    log, output, status = state / "kernel.log", state / "output", state / "status"
    ended = _boot(state, log, timeout_s)
    text = output.read_text(errors="replace") if output.exists() else ""
    if not status.exists():
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise KernelFailed(f"{ended}\n{text}\nThe kernel's last words:\n{tail}")
    return int(status.read_text()), text


def _script(argv: Sequence[str]) -> str:
    named = {name: value for name, value in os.environ.items() if re.fullmatch(r"[A-Za-z_]\w*", name)}
    named["PATH"] = _PATH
    exports = [f"export {name}={shlex.quote(value)}" for name, value in named.items()]
    # A session of its own: process group 0 is that of the kernel's first process.
    return "\n".join([*exports, f"cd {shlex.quote(str(Path.cwd()))}", f"exec setsid -w {shlex.join(argv)}\n"])


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
    environment = {"PATH": _PATH, "HOME": str(state), "TMPDIR": "/dev/shm"}
    program = shutil.which("linux.uml", path=_PATH) or "linux.uml"
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
