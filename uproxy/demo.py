"""`uproxy demo`: the main job in one command, without root and without a cluster.

Owns three local backends and a manifest that makes them a Service; the proxy in front of
them is the real one. With `--once` it is its own client and prints who answered.
"""

import asyncio
import json
import tempfile
from collections import Counter
from ipaddress import ip_network
from pathlib import Path

from uproxy.app.plan import address_plan
from uproxy.app.proxy import Proxy
from uproxy.app.sources import Emit, load_manifests
from uproxy.errors import UproxyError
from uproxy.kit import endings
from uproxy.kit.logs import set_up_logging
from uproxy.model.names import address_text
from uproxy.settings import LOOPBACK_SERVICE_CIDR, Settings
from uproxy.steering.probe import Capture, Choice, Mechanism

BACKENDS = ("pod-1", "pod-2", "pod-3")
PORT = 8080
REQUESTS = 300
_ONE_CLIENT = 10  # requests in flight at once


class Backend:
    """A web server that answers every request with its name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen on a free loopback port."""
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening: new connections are refused, as by a pod that was killed."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            body = f"hello from {self.name}\n".encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # a client that went away; it is only a demo's backend
        finally:
            writer.close()


async def demo(*, once: bool) -> int:
    """Run the demo; returns the exit status."""
    with endings.telling(lambda: None):  # the proxy hears it as soon as it listens
        return await _demo(once=once)


async def _demo(*, once: bool) -> int:
    set_up_logging("text")
    backends = [Backend(name) for name in BACKENDS]
    for backend in backends:
        await backend.start()
    with tempfile.TemporaryDirectory(prefix="uproxy-demo-") as folder:
        manifest = _write_manifest(folder, backends)
        try:
            return await _proxied(manifest, backends, once=once)
        finally:
            for backend in backends:
                await backend.stop()


async def _proxied(manifest: Path, backends: list[Backend], *, once: bool) -> int:
    emit = Emit()
    settings = _settings(manifest)
    choice = Choice(Capture.BIND, Mechanism.LOOPBACK, "the demo needs no root")
    plan = address_plan(settings.service_cidr, choice, first_port=0)
    proxy = Proxy(settings, choice, plan, load_manifests(settings, emit).sources(), emit)
    running = asyncio.ensure_future(proxy.run())
    ready = asyncio.ensure_future(proxy.reconcile.programmed.wait())
    await asyncio.wait((running, ready), return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    if running.done():
        await running
        if endings.was_told():
            return 0
        raise UproxyError("the demo's proxy ended before it was ready")
    if not once:
        _invite(proxy, manifest)
        await running
        return 0
    showing = asyncio.ensure_future(_show(proxy, backends))
    await asyncio.wait((running, showing), return_when=asyncio.FIRST_COMPLETED)
    if running.done():  # told to stop in the middle of it
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)
        return 0
    proxy.stop.set()
    await running
    return showing.result()


def _write_manifest(folder: str, backends: list[Backend]) -> Path:
    manifest = Path(folder, "hello.json")
    manifest.write_text(json.dumps(_manifest(backends), indent=2))
    return manifest


def _manifest(backends: list[Backend]) -> dict[str, object]:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "hello", "namespace": "demo"},
        "spec": {"ports": [{"name": "http", "port": PORT}]},
    }
    slices = [
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"hello-{backend.name}",
                "namespace": "demo",
                "labels": {"kubernetes.io/service-name": "hello"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": backend.port}],
            "endpoints": [{"addresses": ["127.0.0.1"]}],
        }
        for backend in backends
    ]
    return {"apiVersion": "v1", "kind": "List", "items": [service, *slices]}


def _settings(manifest: Path) -> Settings:
    return Settings(
        handoff="off",
        files=(str(manifest),),
        endpoints=(),
        capture="bind",
        redirect_mechanism="auto",
        relay="auto",
        threads=1,
        service_cidr=ip_network(LOOPBACK_SERVICE_CIDR),
        metrics_address=("127.0.0.1", 0),
        healthz_address=("127.0.0.1", 0),
        connect_timeout_s=1.0,
        idle_timeout_s=3600.0,
        half_closed_timeout_s=600.0,
        udp_idle_timeout_s=120.0,
        drain_timeout_s=5.0,
        log_format="text",
        access_log=False,
    )


def _address(proxy: Proxy) -> tuple[str, int]:
    (desired,) = proxy.store.desired.values()
    vip = desired.frontends[0].vip
    return str(vip.ip), vip.port


def _invite(proxy: Proxy, manifest: Path) -> None:
    url = f"http://{address_text(*_address(proxy))}/"
    metrics = proxy.metrics_address
    print(
        f"""
Service demo/hello has three backends: {", ".join(BACKENDS)}. Try, in another terminal:

  for i in 1 2 3 4 5 6; do curl -s {url}; done
  uproxy services -o wide --address {metrics}
  curl -s http://{metrics}/metrics | grep ^uproxy_connections
  $EDITOR {manifest}      # take an endpoint out: no connection is dropped

Ctrl-C ends it.
""",
        flush=True,
    )


async def _show(proxy: Proxy, backends: list[Backend]) -> int:
    """Send requests before and after a backend is killed; 1 when one of them failed."""
    host, port = _address(proxy)
    print(f"\nService demo/hello at {address_text(host, port)}, three backends")
    print(f"\n{REQUESTS} requests, {_ONE_CLIENT} at a time:")
    first = await _requests(host, port)
    _print_counts(first)
    victim = backends[1]
    await victim.stop()
    print(f"\n{victim.name} is killed, though the manifest still lists it. {REQUESTS} requests more:")
    second = await _requests(host, port)
    _print_counts(second)
    [programmed] = proxy.dataplane.ports.values()
    refused = sum(programmed.stats.dial_failures.values())
    failed = first["failed"] + second["failed"]
    noticed = f"{failed} clients noticed" if failed else "no client noticed"
    print(f"\nRefused dials: {refused}. The proxy went on to another backend, and {noticed}.\n")
    return 1 if failed else 0


async def _requests(host: str, port: int) -> Counter[str]:
    answers: Counter[str] = Counter()
    gate = asyncio.Semaphore(_ONE_CLIENT)

    async def one() -> None:
        async with gate:
            answers[await _request(host, port)] += 1

    await asyncio.gather(*(one() for _ in range(REQUESTS)))
    return answers


async def _request(host: str, port: int) -> str:
    try:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET / HTTP/1.1\r\nHost: hello\r\n\r\n")
        answer = await reader.read()
        writer.close()
    except OSError:
        return "failed"
    return answer.decode().rpartition("hello from ")[2].strip() or "failed"


def _print_counts(answers: Counter[str]) -> None:
    print(f"\n  {'BACKEND':10} REQUESTS")
    for name in (*BACKENDS, "failed"):
        print(f"  {name:10} {answers[name]:8}")
