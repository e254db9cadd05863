"""`uproxy run` by an ordinary user, on loopback, with nothing but a manifest and a backend."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.loop.conftest import free_port
from tests.proxy_process import ProxyProcess, ThisMachine, connected

EXAMPLES = Path(__file__).parents[3] / "examples"
SHOP = str(EXAMPLES / "online-boutique.yaml")


@pytest_asyncio.fixture
async def backend() -> AsyncIterator[int]:
    """The port of a server that says hello."""

    async def hello(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    server = await asyncio.start_server(hello, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


def proxy(prefix: tuple[str, ...], folder: Path, *arguments: str) -> ProxyProcess:
    log = folder / "uproxy.log"
    metrics, healthz = ("127.0.0.1", free_port()), ("127.0.0.1", free_port())
    return ProxyProcess(ThisMachine(), *arguments, log=log, metrics=metrics, healthz=healthz, prefix=prefix)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_service_of_a_real_manifest_is_reachable_at_the_address_that_is_told(
    prefix: tuple[str, ...], tmp_path: Path, backend: int, host: str
) -> None:
    endpoint = f"default/frontend={host}:{backend}"
    async with proxy(prefix, tmp_path, "-f", SHOP, "--endpoint", endpoint) as running:
        assert "capture bind by loopback" in running.log
        row = await running.row("frontend")
        assert row["status"] == "ok"
        assert [endpoint["address"] for endpoint in row["endpoints"]] in (
            [f"127.0.0.1:{backend}"],
            [f"127.0.0.1:{backend}", f"[::1]:{backend}"],
        )
        ip, _, port = row["addresses"][0].rpartition(":")
        assert ip.startswith("127.")
        async with connected(ThisMachine(), (ip, int(port))) as (reader, _):
            assert await reader.read() == b"hello"
        running.terminate()
        assert await running.status() == 0
