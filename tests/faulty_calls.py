"""A process in which system calls fail at random (`faults.c`), as a test sees it: switched, counted."""

import mmap
import os
import shutil
import struct
from pathlib import Path

from uproxy.kit.commands import run

SOURCE = Path(__file__).with_name("faults.c")
CALLS = (
    *("socket", "connect", "bind", "accept4", "setsockopt", "getpeername", "send", "recv", "sendto"),
    *(
        "recvfrom",
        "sendmsg",
        "recvmsg",
        "readv",
        "write",
        "splice",
        "pipe2",
        "fcntl",
        "epoll_ctl",
        "shutdown",
    ),
)
_HEAD = struct.Struct("4I")
_COUNTS = struct.Struct(f"{len(CALLS)}I")


def can_build() -> bool:
    """Whether there is a compiler."""
    return shutil.which("gcc") is not None


class FaultyCalls:
    """The switch, and the counts."""

    def __init__(self, folder: Path) -> None:
        """The library, which `build` makes, and the file that it maps, both in `folder`."""
        self._library = folder / "faults.so"
        self._file = folder / "faults"
        self._file.write_bytes(bytes(_HEAD.size + _COUNTS.size))
        with self._file.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)

    async def build(self) -> None:
        """Compile the library."""
        flags = ("-std=gnu11", "-O1", "-g", "-fPIC", "-shared")
        done = await run("gcc", *flags, "-o", str(self._library), str(SOURCE), "-ldl")
        assert done.status == 0, done.stderr

    @property
    def prefix(self) -> tuple[str, ...]:
        """What a program is run with."""
        others = os.environ.get("LD_PRELOAD", "")  # a sanitizer's, which has to come first
        return "env", f"LD_PRELOAD={others} {self._library}", f"UPROXY_FAULTS={self._file}"

    def begin(self, seed: int, per_million: int) -> None:
        """From now on calls fail, one in so many."""
        _HEAD.pack_into(self._map, 0, 0, seed, per_million, 0)
        self._map[0] = 1

    def end(self) -> None:
        """From now on none do."""
        self._map[0] = 0

    def failed(self) -> dict[str, int]:
        """How many did, since the start."""
        return dict(zip(CALLS, _COUNTS.unpack_from(self._map, _HEAD.size), strict=True))
