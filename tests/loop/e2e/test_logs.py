"""A log that nobody reads, and what else may hold up the end of a process."""

import asyncio
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.loop.conftest import free_port
from tests.loop.e2e.test_endurance import echo  # noqa: F401 - a fixture
from tests.proxy_process import UPROXY, connected, eventually

MANIFEST = """
kind: Service
apiVersion: v1
metadata: {{name: {name}, namespace: {name}}}
spec: {{clusterIP: 127.96.7.7, ports: [{{port: {port}, name: {name}}}]}}
"""
LONG = "w" * 63
"""Makes lines of 400 octets: a pipe takes 64 KiB of them, and 1 MiB is kept."""


class Unread:
    """`uproxy run` whose standard error is a pipe that nobody reads."""

    def __init__(self, *flags: str, stderr: int) -> None:
        self.metrics = ("127.0.0.1", free_port())
        self.process = subprocess.Popen(
            [
                "setpriv", "--pdeathsig=KILL", *UPROXY, "run", "--capture", "bind", *flags,
                "--metrics-bind-address", f"127.0.0.1:{self.metrics[1]}",
                "--healthz-bind-address", f"127.0.0.1:{free_port()}",
            ],
            stdout=subprocess.DEVNULL, stderr=stderr,
        )  # fmt: skip

    async def answers(self, path: str) -> bytes:
        try:
            async with connected(HERE, self.metrics) as (reader, writer):
                writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                return await reader.read(-1)
        except OSError:
            return b""

    async def ended(self) -> bool:
        return self.process.poll() is not None


class Here:
    """This machine."""

    def socket(self, family: int = socket.AF_INET, type: int = socket.SOCK_STREAM) -> socket.socket:
        return socket.socket(family, type)


HERE = Here()


@pytest.mark.parametrize("how", ["unread", "gone"])
async def test_a_log_that_nobody_reads_holds_up_neither_traffic_nor_the_end(tmp_path: Path, echo, how):  # noqa: F811
    port = free_port()
    manifest = tmp_path / "web.yaml"
    manifest.write_text(MANIFEST.format(port=port, name=LONG))
    reader, writer = os.pipe()
    flags = ("-f", str(manifest), "--endpoint", f"{LONG}/{LONG}=127.0.0.1:{echo}", "--access-log")
    proxy = Unread(*flags, stderr=writer)
    os.close(writer)
    if how == "gone":
        os.close(reader)
    try:
        await eventually(lambda: proxy.answers("/services"), "the metrics address")
        vip = ("127.96.7.7", port)
        await eventually(lambda: exchanged(vip), "the Service")
        for _ in range(80):
            assert all(await asyncio.gather(*(exchanged(vip) for _ in range(50))))
        found = await proxy.answers("/metrics")
        (line,) = (line for line in found.splitlines() if line.startswith(b"uproxy_log_lines_dropped_total"))
        assert float(line.split()[1]) > 0
        proxy.process.send_signal(signal.SIGTERM)
        await eventually(proxy.ended, "its end")
        assert proxy.process.returncode == 0
    finally:
        proxy.process.kill()
        proxy.process.wait()
        if how == "unread":
            os.close(reader)


async def exchanged(vip: tuple[str, int]) -> bool:
    try:
        async with connected(HERE, vip) as (reader, writer):
            writer.write(b"x")
            return await asyncio.wait_for(reader.read(1), 10) == b"x"
    except OSError:
        return False
