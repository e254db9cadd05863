"""`uproxy run` as a process of its own, started, asked and ended by a test.

Owns waiting until it is ready, and that it never outlives the test. What it logs is shown
with a test that fails.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Protocol, Self

from prometheus_client.parser import text_string_to_metric_families

import uproxy

PATIENCE_S = 20.0
UPROXY = ("env", f"PYTHONPATH={Path(uproxy.__file__).parents[1]}", sys.executable, "-m", "uproxy")
"""The command line of the very package that pytest sees, installed or not."""

_DIES_WITH_PYTEST = ("setpriv", "--pdeathsig=KILL")
"""pytest-timeout ends pytest on the spot, without a chance to tidy up."""

Address = tuple[str, int]


class Place(Protocol):
    """Somewhere programs run and sockets live: this machine, or a host of the lab."""

    def exec(self, *argv: str, **popen: Any) -> subprocess.Popen[Any]: ...

    def socket(self, family: int = ..., type: int = ...) -> socket.socket: ...


class ThisMachine:
    """Where pytest itself runs."""

    def exec(self, *argv: str, **popen: Any) -> subprocess.Popen[Any]:
        return subprocess.Popen(argv, **popen)

    def socket(self, family: int = socket.AF_INET, type: int = socket.SOCK_STREAM) -> socket.socket:
        return socket.socket(family, type)


@asynccontextmanager
async def connected(
    place: Place, address: Address, from_ip: str = ""
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection from `place`, and from one of its addresses; it is closed at the end."""
    stream = nonblocking(place, address, socket.SOCK_STREAM)
    try:
        if from_ip:
            stream.bind((from_ip, 0))
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.get_running_loop().sock_connect(stream, address)
        reader, writer = await asyncio.open_connection(sock=stream)
    except BaseException:
        stream.close()
        raise
    try:
        yield reader, writer
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


def nonblocking(place: Place, address: Address, kind: int) -> socket.socket:
    """A socket in `place` of the family that `address` needs."""
    family = socket.AF_INET if ip_address(address[0]).version == 4 else socket.AF_INET6
    made = place.socket(family, kind)
    made.setblocking(False)
    return made


async def eventually(
    condition: Callable[[], Awaitable[object]],
    what: str,
    *,
    within_s: float | None = None,
    every_s: float = 0.02,
) -> None:
    """Ask for a condition until it holds, and fail when it does not come."""
    within_s = PATIENCE_S if within_s is None else within_s
    deadline_s = monotonic() + within_s
    while not await condition():
        assert monotonic() < deadline_s, f"not seen in {within_s:g} s: {what}"
        await asyncio.sleep(every_s)


class ProxyProcess:
    """One `uproxy run`, from `async with` to its end."""

    def __init__(
        self,
        place: Place,
        *arguments: str,
        log: Path,
        metrics: Address = ("127.0.0.1", 10249),
        healthz: Address = ("127.0.0.1", 10256),
        prefix: tuple[str, ...] = (),
        wait_for: int = 200,
    ) -> None:
        """`prefix` is what to run it with (prlimit...); `wait_for` the health status to begin at."""
        self._place = place
        self._log = log
        self._metrics = metrics
        self._healthz = healthz
        self._wait_for = wait_for
        self._argv = (
            *_DIES_WITH_PYTEST,
            *prefix,
            *UPROXY,
            "run",
            *arguments,
            "--metrics-bind-address",
            f"{metrics[0]}:{metrics[1]}",
            "--healthz-bind-address",
            f"{healthz[0]}:{healthz[1]}",
        )

    async def __aenter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = self._place.exec(*self._argv, stdout=log, stderr=log)
        try:
            await eventually(self._is_up, f"health {self._wait_for}")
        except BaseException:
            self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        sys.stderr.write(f"{' '.join(self._argv)}\n{self.log}")  # pytest shows it with a failure

    async def _is_up(self) -> bool:
        assert self._process.poll() is None, f"ended with {self._process.returncode}"
        return await self.health() == self._wait_for

    # ---- what it tells ----

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        """Everything it has logged until now."""
        return self._log.read_text()

    async def health(self) -> int:
        """The status of /healthz; 0 when nobody answers."""
        try:
            return (await self._fetch(self._healthz, "/healthz"))[0]
        except OSError:
            return 0

    async def livez(self) -> int:
        """The status of /livez."""
        return (await self._fetch(self._healthz, "/livez"))[0]

    async def health_body(self) -> dict[str, Any]:
        """What /healthz says."""
        body: dict[str, Any] = json.loads((await self._fetch(self._healthz, "/healthz"))[1])
        return body

    async def services(self) -> list[dict[str, Any]]:
        """The rows of /services."""
        rows: list[dict[str, Any]] = json.loads((await self._fetch(self._metrics, "/services"))[1])
        return rows

    async def row(self, name: str, protocol: str = "TCP") -> dict[str, Any]:
        """The one row of a Service with one port of `protocol`."""
        (row,) = (row for row in await self.services() if (row["name"], row["protocol"]) == (name, protocol))
        return row

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels."""
        text = (await self._fetch(self._metrics, "/metrics"))[1]
        samples = (one for family in text_string_to_metric_families(text) for one in family.samples)
        return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())

    async def _fetch(self, address: Address, path: str) -> tuple[int, str]:
        async with connected(self._place, address) as (reader, writer):
            writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            head, _, body = (await reader.read(-1)).decode().partition("\r\n\r\n")
        if not head:
            raise ConnectionError("closed without an answer")
        return int(head.split()[1]), body

    def open_sockets(self) -> int:
        """How many of its descriptors are sockets."""
        return sum(name.startswith("socket:") for name in self._descriptors())

    def open_pipes(self) -> int:
        """How many of its descriptors are ends of pipes."""
        return sum(name.startswith("pipe:") for name in self._descriptors())

    def _descriptors(self) -> list[str]:
        names = []
        for path in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                names.append(str(path.readlink()))
            except FileNotFoundError:
                continue  # closed since the directory was read
        return names

    def cpu_s(self) -> float:
        """Processor time that it has used (proc(5), fields 14 and 15)."""
        after_name = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")

    # ---- its end ----

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    async def status(self) -> int:
        """Wait for its end; returns its exit status."""
        await eventually(self._has_ended, "the proxy's end")
        return int(self._process.returncode)

    async def _has_ended(self) -> bool:
        return self._process.poll() is not None

    def kill9(self) -> None:
        """Kill it where it stands."""
        self._process.kill()
        self._process.wait()
