"""Debian's kernel in QEMU: with KVM where that works, else emulated, some 10 to 20 times slower.

Owns finding the kernel that `make kernel` has fetched, booting it, running one command in it (guest.py), and
its end. The guest has this machine's files by virtiofs, read only, under an overlay in its memory; what the
command prints comes back by a serial line.
"""

import gzip
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from time import monotonic, sleep

from tests.kernel.guest import Ended, KernelFailed, NoKernel, last_words, script
from tests.missing_packages import KERNEL, PATH, no_vm

_MEMORY_MIB = 1024
_EARLY = "virtio_pci virtiofs overlay"
_LOADED = """ip_vs ip_vs_rr nf_conntrack nf_conntrack_netlink nf_nat veth bridge dummy ipvlan macvlan 8021q
nf_tables nft_chain_nat nft_nat nft_masq nft_redir nft_tproxy nft_queue nft_numgen nft_ct nft_fib_inet
nft_reject_inet nfnetlink_queue nf_flow_table nft_flow_offload ip_set ip_set_hash_ipport ip_set_hash_ipportnet
ip_set_hash_net ip_set_bitmap_port xt_set xt_ipvs sch_netem"""
# Emulation has no use for what newer processors can do; the kernel has none for defences.
_ACCELERATIONS = {"kvm": ("host", 60.0), "tcg": ("Nehalem", 240.0)}
"""For each the processor that the guest sees, and how many seconds it may take to boot on a busy machine."""
_BROKEN: dict[str, str] = {}
"""Accelerations that have not booted, and how they ended: tried once by a process."""
_POLL_S = 0.1

# The first process, in the initramfs. ttyS0 is the kernel's, ttyS1 the output, ttyS2 `here` and the status.
_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
off() { sync; poweroff -f; }
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for module in @EARLY@; do insmod /early/$module.ko || off; done
mount -t virtiofs -o ro root /host || off
mount -t tmpfs -o size=75% tmpfs /memory && mkdir /memory/upper /memory/work || off
mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work overlay /new || off
cd /new
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t devtmpfs dev dev
mkdir -p dev/shm dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t devpts devpts dev/pts
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p run/lock run/netns lib/modules
mount --bind /host@KERNEL@/lib/modules lib/modules || off
cp /second /command run/
exec switch_root /new /bin/sh /run/second
"""
_SECOND = """#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
stty -F /dev/ttyS1 raw
ip link set lo up
modprobe -a @LOADED@
echo here >/dev/ttyS2
# Not a terminal, to the command.
{ env -i /bin/sh /run/command </dev/null; echo $? >/run/status; } 2>&1 | cat >/dev/ttyS1
cat /run/status >/dev/ttyS2
echo o >/proc/sysrq-trigger
while :; do sleep 1; done
"""


def run_in_vm(argv: Sequence[str], state: Path, timeout_s: float) -> Ended:
    """A guest.Way."""
    if reason := no_vm():
        raise NoKernel(f"QEMU: {reason}")
    for acceleration in _ACCELERATIONS:
        if acceleration in _BROKEN or (acceleration == "kvm" and not os.access("/dev/kvm", os.W_OK)):
            continue
        own = state / acceleration
        own.mkdir()
        try:
            return _run(acceleration, argv, own, timeout_s)
        except NoKernel as reason:
            _BROKEN[acceleration] = str(reason)
    raise NoKernel("; ".join(_BROKEN.values()))


def _run(acceleration: str, argv: Sequence[str], state: Path, timeout_s: float) -> Ended:
    booting_s = _ACCELERATIONS[acceleration][1]
    output, status, log = state / "output", state / "status", state / "kernel.log"
    begun_s = monotonic()

    def told() -> list[str]:
        return status.read_text().split() if status.exists() else []

    initramfs = _initramfs(state, argv)
    with _files_shared(state) as socket, _started(acceleration, initramfs, socket, state) as qemu:
        while qemu.poll() is None and monotonic() - begun_s < (timeout_s if told() else booting_s):
            sleep(_POLL_S)
        ended = f"QEMU ({acceleration}) ended with {qemu.poll()}, after {monotonic() - begun_s:.0f} s"
    text = output.read_text(errors="replace") if output.exists() else ""
    match told():
        case [_, code]:
            return Ended(int(code), text)
        case [_]:
            raise KernelFailed(f"{ended}\n{text}\nThe kernel's last words:\n{last_words(log)}")
        case _:
            said = last_words(state / "qemu.log") or last_words(log)
            raise NoKernel(f"{ended}: {said.splitlines()[-1] if said else 'without a word'}")


def _initramfs(state: Path, argv: Sequence[str]) -> Path:
    """What the kernel begins with: a shell, and the modules that this machine's files take."""
    root, packed = state / "initramfs", state / "initramfs.gz"
    for folder in ("bin", "proc", "dev", "host", "memory", "new", "early"):
        (root / folder).mkdir(parents=True)
    shutil.copy(shutil.which("busybox", path=PATH) or "/bin/busybox", root / "bin/busybox")
    for module in (early := _with_needed(_EARLY.split())):
        shutil.copy(module, root / "early")
    words = {"@EARLY@": " ".join(module.stem for module in early), "@LOADED@": " ".join(_LOADED.split())}
    words["@KERNEL@"] = str(KERNEL)
    for name, text in (("init", _INIT), ("second", _SECOND)):
        (root / name).write_text(re.sub(r"@[A-Z]+@", lambda mark: words[mark[0]], text))
        (root / name).chmod(0o755)
    (root / "command").write_text(script(argv))
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    pack = ["busybox", "cpio", "-o", "-H", "newc"]
    done = subprocess.run(pack, input=names.encode(), cwd=root, capture_output=True, check=True)  # noqa: TID251
    packed.write_bytes(gzip.compress(done.stdout, 1))
    return packed


def _with_needed(names: Sequence[str]) -> list[Path]:
    """The files of modules, each after those that it needs, as depmod(8) has written down."""
    (modules,) = (KERNEL / "lib/modules").iterdir()
    needed = dict(line.split(":") for line in (modules / "modules.dep").read_text().splitlines())
    files: list[str] = []
    for name in names:
        (file,) = (one for one in needed if Path(one).stem == name)
        # The last one named is what the others need.
        files += [one for one in (*reversed(needed[file].split()), file) if one not in files]
    return [modules / file for file in files]


@contextmanager
def _files_shared(state: Path) -> Iterator[Path]:
    """A virtiofsd for all files of this machine; yields its socket. Raises NoKernel."""
    with tempfile.TemporaryDirectory(prefix="uproxy-vm-") as folder:  # a socket's name may not be long
        socket, log = Path(folder) / "socket", state / "qemu.log"
        options = "source=/,cache=always,sandbox=chroot"
        program = shutil.which("virtiofsd", path=PATH) or "virtiofsd"
        argv = [program, f"--socket-path={socket}", "-o", options]
        with _program(argv, log) as daemon:
            until_s = monotonic() + 30
            while not socket.exists():
                if daemon.poll() is not None or monotonic() > until_s:
                    raise NoKernel(f"virtiofsd ended with {daemon.poll()}: {last_words(log)}")
                sleep(_POLL_S)
            yield socket


def _started(
    acceleration: str, initramfs: Path, socket: Path, state: Path
) -> AbstractContextManager[subprocess.Popen[bytes]]:
    processor = _ACCELERATIONS[acceleration][0]
    memory = f"memory-backend-memfd,id=memory,size={_MEMORY_MIB}M,share=on"
    lines = [f"file:{state / name}" for name in ("kernel.log", "output", "status")]
    argv = [
        "qemu-system-x86_64",
        *("-accel", acceleration, "-cpu", processor, "-smp", "2", "-m", f"{_MEMORY_MIB}M"),
        *("-object", memory, "-numa", "node,memdev=memory"),
        *("-chardev", f"socket,id=c,path={socket}", "-device", "vhost-user-fs-pci,chardev=c,tag=root"),
        *("-kernel", str(next((KERNEL / "boot").glob("vmlinuz-*"))), "-initrd", str(initramfs)),
        *("-append", "console=ttyS0 quiet panic=-1 mitigations=off rcupdate.rcu_expedited=1"),
        *("-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot"),
        *(word for line in lines for word in ("-serial", line)),
    ]
    return _program(argv, state / "qemu.log")


@contextmanager
def _program(argv: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that dies with the test run, however that ends."""
    with log.open("ab") as words:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig=KILL", *argv],
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            env={"PATH": PATH},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
