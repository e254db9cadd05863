"""Clients that people have: dig, and c-ares."""

import asyncio
import shutil

import aiodns
import pytest

from tests.loop.dns.rig import running
from tests.pure.dns.rig import external, headless, piece, service

SVC = "default.svc.cluster.local"
OBJECTS = (
    service("web", "http:80", ips="172.30.0.1 fd00::1"),
    headless("db", "pg:5432"),
    piece("db", *(f"10.0.0.{number}" for number in range(1, 101)), ports="pg:5432"),
    headless("few", "pg:5432"),
    piece("few", "a@10.0.1.1", "b@10.0.1.2", ports="pg:5432"),
    external("alias", f"web.{SVC}"),
)


async def dig(server, *words: str) -> list[str]:
    if shutil.which("dig") is None:
        pytest.skip("dig is not installed (package dnsutils)")
    ip, port = server.address
    process = await asyncio.create_subprocess_exec(
        "dig", f"@{ip}", "-p", str(port), "+time=10", *words, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out
    return out.decode().splitlines()


@pytest.fixture(params=["127.0.0.1", "::1"])
async def server(request):
    async with running(*OBJECTS, listen=((request.param, 0),)) as made:
        yield made


@pytest.mark.parametrize(
    "way", ["+noedns", "+edns", "+tcp", "+bufsize=4096", "+nocookie", "+keepopen", "+dnssec"]
)
async def test_dig_in_every_way(server, way):
    assert await dig(server, way, "+short", f"web.{SVC}") == ["172.30.0.1"]
    assert await dig(server, way, "+short", f"web.{SVC}", "AAAA") == ["fd00::1"]
    assert await dig(server, way, "+short", "-x", "172.30.0.1") == [f"web.{SVC}."]
    assert await dig(server, way, "+short", f"_http._tcp.web.{SVC}", "SRV") == [f"0 100 80 web.{SVC}."]
    assert await dig(server, way, "+short", f"alias.{SVC}") == [f"web.{SVC}.", "172.30.0.1"]
    assert await dig(server, way, "+short", f"nobody.{SVC}") == []


async def test_dig_comes_again_by_tcp_after_truncation(server):
    found = await dig(server, "+short", f"db.{SVC}")
    assert len([line for line in found if line.startswith("10.0.0.")]) == 100
    assert server.dns.stats.requests["tcp", 6 if ":" in server.address[0] else 4] == {1: 1}


async def test_dig_warns_of_nothing(server):
    out = await dig(server, f"few.{SVC}", "SRV", "+noedns")
    assert not [line for line in out if "extra bytes" in line or "malformed" in line.lower()]
    assert any("flags: qr aa rd" in line for line in out)


async def test_c_ares(server):
    ip, port = server.address
    resolver = aiodns.DNSResolver([f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"])
    try:
        found = await resolver.query_dns(f"WEB.{SVC}", "A")
        assert [(record.data.addr, record.ttl) for record in found.answer] == [("172.30.0.1", 5)]
        many = await resolver.query_dns(f"db.{SVC}", "A")
        assert len(many.answer) == 100
        srv = await resolver.query_dns(f"_pg._tcp.few.{SVC}", "SRV")
        assert sorted(record.data.target for record in srv.answer) == [f"a.few.{SVC}", f"b.few.{SVC}"]
        with pytest.raises(aiodns.error.DNSError) as absent:
            await resolver.query_dns(f"nobody.{SVC}", "A")
        assert absent.value.args[0] == aiodns.error.ARES_ENOTFOUND
        with pytest.raises(aiodns.error.DNSError) as empty:
            await resolver.query_dns(f"few.{SVC}", "AAAA")
        assert empty.value.args[0] == aiodns.error.ARES_ENODATA
    finally:
        await resolver.close()
