"""The endpoint is told who its client is, ahead of the client's first byte."""

import asyncio
import shutil
import socket
import struct
import subprocess
from ipaddress import ip_address

import pytest

from tests.loop.conftest import free_port
from tests.loop.dataplane.options.peers import Caller, Keeper
from tests.loop.dataplane.test_dialling import refusing
from tests.loop.rig import PATIENCE_S, Rig, backend, until
from tests.proxy_header import FIXED_BYTES, Header, length, parse
from tests.proxy_process import ThisMachine
from uproxy.model.options import Options

VIP = "127.96.0.13"
TOLD = Options(proxy_protocol=True)


class Told:
    """A server that reads a header first, answers with its own name, and then repeats what it hears."""

    def __init__(self, rig, ip: str = "127.0.0.1") -> None:
        self.headers: list[Header] = []
        self._rig = rig
        self._ip = ip

    async def start(self) -> "Told":
        self._server = await asyncio.start_server(self._serve, self._ip, 0)
        self._rig.at_close(self._server.close)
        self.backend = backend(self._server.sockets[0].getsockname())
        return self

    async def _serve(self, reader, writer) -> None:
        try:
            fixed = await reader.readexactly(FIXED_BYTES)
            self.headers.append(parse(fixed + await reader.readexactly(length(fixed) - FIXED_BYTES))[0])
            writer.write(b"name ")
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        writer.close()


async def read_to_the_end(caller: Caller) -> bytes:
    parts = []
    while part := await caller.read(1 << 20):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("family", [4, 6])
async def test_client_and_vip_as_the_client_sees_them(rig, family):
    ip = VIP if family == 4 else "::1"
    server = await Told(rig, "127.0.0.1" if family == 4 else "::1").start()
    vip = (ip, free_port(ip))
    await rig.serve(vip, [server.backend], options=TOLD)
    with socket.create_connection(vip) as client:
        client.setblocking(False)
        said = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 100), PATIENCE_S)
        assert said == b"name "
        assert server.headers == [Header(client.getsockname()[:2], vip)]


async def test_not_a_byte_is_lost_or_counted_too_many(rig):
    """Bulk too, which goes by splice."""
    server = await Told(rig).start()
    vip = (VIP, free_port(VIP))
    programmed = await rig.serve(vip, [server.backend], options=TOLD)
    caller = await Caller(rig, vip).connect()
    data = bytes(range(256)) * 16384
    sending = asyncio.ensure_future(caller.write(data))
    sending.add_done_callback(lambda _: caller.socket.shutdown(socket.SHUT_WR))
    assert await read_to_the_end(caller) == b"name " + data
    await sending
    assert len(server.headers) == 1
    await until(lambda: rig.ended)
    rig.relay.collect()
    assert programmed.stats.bytes_to_backend == len(data)


async def test_an_endpoint_that_is_tried_after_others_is_told_too(rig):
    server = await Told(rig).start()
    vip = (VIP, free_port(VIP))
    refuse = [backend(refusing()) for _ in range(3)]
    await rig.serve(vip, [*refuse, server.backend], options=TOLD)
    for number in range(1, 5):
        caller = await Caller(rig, vip).connect()
        await caller.write(b"hello")
        assert (await caller.read(5), await caller.read(5)) == (b"name ", b"hello")
        assert len(server.headers) == number
    assert {its.destination for its in server.headers} == {vip}


async def test_a_client_that_waited_is_introduced_as_well(rig):
    server = await Told(rig).start()
    vip = (VIP, free_port(VIP))
    options = Options(proxy_protocol=True, hold_s=3600.0)
    programmed = await rig.serve(vip, [], options=options)
    caller = await Caller(rig, vip).connect()
    await caller.write(b"hello")
    await until(lambda: programmed.room)
    await rig.serve(vip, [server.backend], options=options)
    assert (await caller.read(5), await caller.read(5)) == (b"name ", b"hello")
    assert server.headers == [Header(caller.socket.getsockname(), vip)]


async def test_a_redirected_client_was_on_its_way_to_the_vip(relay, monkeypatch):
    rig = Rig(relay)
    server = await Told(rig).start()
    vip = ("10.96.0.1", 80)
    on_the_wire = struct.pack("!H", 80) + ip_address("10.96.0.1").packed
    if relay == "python":
        target = "uproxy.dataplane.relay.python_relay.original_destination"
    else:
        target = "uproxy.dataplane.relay._engine.destination"
    monkeypatch.setattr(target, lambda _client, _family: on_the_wire)
    port = rig.dataplane.listen_for_redirects(ip_address("127.0.0.1"))
    await rig.serve(vip, [server.backend], options=TOLD)
    caller = await Caller(rig, ("127.0.0.1", port)).connect()
    assert await caller.read() == b"name "
    assert server.headers == [Header(caller.socket.getsockname(), vip)]
    await rig.close()


async def test_the_option_can_change_under_way(rig):
    told, plain = await Told(rig).start(), Keeper(rig, "plain")
    vip = (VIP, free_port(VIP))
    for _ in range(2):
        await rig.serve(vip, [told.backend], options=TOLD)
        assert await (await Caller(rig, vip).connect()).read() == b"name "
        await rig.serve(vip, [plain.backend])
        assert await (await Caller(rig, vip).connect()).read() == b"plain"


HAPROXY = """
defaults
  mode http
  timeout connect 5s
  timeout client 5s
  timeout server 5s
frontend web
  bind 127.0.0.1:{port} accept-proxy
  http-request return status 200 content-type text/plain lf-string "%[src] %[src_port] %[dst] %[dst_port]"
"""


@pytest.mark.skipif(
    shutil.which("haproxy") is None, reason="HAProxy is not installed (apt-get install haproxy)"
)
async def test_haproxy_understands_it(rig, tmp_path):
    port = free_port()
    (tmp_path / "haproxy.cfg").write_text(HAPROXY.format(port=port))
    argv = ("setpriv", "--pdeathsig=KILL", "haproxy", "-db", "-f", str(tmp_path / "haproxy.cfg"))
    process = ThisMachine().exec(*argv, stdout=subprocess.DEVNULL)
    try:
        await until(lambda: accepts(port))
        vip = (VIP, free_port(VIP))
        await rig.serve(vip, [backend(("127.0.0.1", port))], options=TOLD)
        caller = await Caller(rig, vip).connect()
        await caller.write(b"GET / HTTP/1.0\r\n\r\n")
        answer = (await read_to_the_end(caller)).decode()
        ip, source_port = caller.socket.getsockname()
        assert answer.endswith(f"{ip} {source_port} {vip[0]} {vip[1]}")
    finally:
        process.kill()
        process.wait()


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
