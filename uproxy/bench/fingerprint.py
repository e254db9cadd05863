"""What figures were measured on: the machine, the versions, the settings that matter.

Owns reading them. What cannot be read is "unknown", never a reason to fail.
"""

import os
import platform
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

import uproxy
from uproxy.bench.results import Machine
from uproxy.kit.commands import find_program

_SYSCTLS = (
    "net.core.somaxconn",
    "net.core.rmem_max",
    "net.core.wmem_max",
    "net.core.busy_poll",
    "net.core.netdev_budget",
    "net.ipv4.tcp_congestion_control",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_tw_reuse",
    "net.netfilter.nf_conntrack_max",
)
"""As they are on the machine; the lab's hosts have their own congestion control, ports and tw_reuse."""
_UNKNOWN = "unknown"
_VERSION = re.compile(r"\d+(?:\.\d+)+[\w.+~-]*")


def fingerprint(peers: Iterable[str], relay: str, generator: str) -> Machine:
    """Describe this machine, and the programs that took part."""
    return Machine(
        kernel=platform.release(),
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)),
        governor=_read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        versions=_versions(peers, relay),
        sysctls={name: _read(f"/proc/sys/{name.replace('.', '/')}") for name in _SYSCTLS},
        generator=generator,
    )


def _versions(peers: Iterable[str], relay: str) -> dict[str, str]:
    versions = {
        "uproxy": f"{uproxy.__version__} ({relay} relay)",
        "python": platform.python_version(),
    }
    for name in peers:
        if found := find_program(name):
            match = _VERSION.search(_output(found, "-v"))
            versions[name] = match[0] if match else _UNKNOWN
    checkout = Path(uproxy.__file__).parents[1]
    if (checkout / ".git").exists():
        versions["commit"] = (
            _output("git", "-C", str(checkout), "describe", "--always", "--dirty") or _UNKNOWN
        )
    return versions


def _cpu_model() -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.machine()


def _read(path: str) -> str:
    try:
        return " ".join(Path(path).read_text().split()) if "sys" in path else Path(path).read_text()
    except OSError:
        return _UNKNOWN


def _output(*argv: str) -> str:
    try:
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except OSError:
        return ""
    return process.communicate()[0].strip()
