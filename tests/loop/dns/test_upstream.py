"""Names elsewhere: asked for upstream, with a slow, a dead, a lying and a circular one."""

import asyncio

import dns.flags
import dns.message
import dns.rcode
import pytest

from tests.loop.dns.rig import PATIENCE_S, exchange, running, until, upstream
from tests.pure.dns.rig import external, headless, lines, piece, service
from uproxy.dns.wire import from_text

SVC = "default.svc.cluster.local."
WEB = service("web", "http:80", ips="172.30.0.1")


@pytest.fixture
async def above():
    async with upstream() as server:
        yield server


@pytest.fixture
async def server(above):
    objects = (
        WEB,
        external("ext", "www.Example.com"),
        external("nothing", "nothing.example"),
        headless("pods"),
        piece("pods", "127.0.0.1"),
    )
    async with running(*objects, upstream=[above.address]) as made:
        yield made


@pytest.mark.parametrize(
    "record",
    [
        "example.com. 61 A 192.0.2.1",
        "example.com. 62 AAAA 2001:db8::1",
        "example.com. 63 MX 10 mail.example.com.",
        'example.com. 64 TXT "v=spf1 -all"',
        "example.com. 65 SRV 1 2 3 srv.example.com.",
        "example.com. 66 NS ns.example.com.",
        "example.com. 67 SOA ns.example.com. host.example.com. 1 2 3 4 5",
        'example.com. 68 CAA 0 issue "ca.example"',
        'example.com. 69 NAPTR 1 2 "s" "SIP+D2U" "" _sip._udp.example.com.',
        "5.2.0.192.in-addr.arpa. 70 PTR host.example.com.",
        "example.com. 71 CNAME www.example.com.",
        'example.com. 72 HTTPS 1 . alpn="h2,h3" ipv4hint="192.0.2.1"',
        "example.com. 73 DS 60485 5 1 2bb183af5f22588179a53b0a98631fad1a292118",
        "example.com. 74 DNSKEY 256 3 8 AQID",
        "example.com. 75 SSHFP 1 1 2bb183af5f22588179a53b0a98631fad1a292118",
        "example.com. 76 TLSA 3 1 0 2bb183af5f22588179a53b0a98631fad1a292118",
        r"example.com. 77 TYPE65280 \# 3 abcdef",
        "example.com. 78 AFSDB 1 afs.example.com.",
        "example.com. 79 DNAME example.net.",
    ],
)
async def test_every_type_comes_back_as_it_was(above, server, record):
    above.add(record)
    name, _, kind, _ = record.split(" ", 3)
    read = await server.ask(name, kind)
    assert lines(read.answer) == [record]
    assert read.flags & (dns.flags.AA | dns.flags.RA) == dns.flags.RA


@pytest.mark.parametrize("kind", ["A", "MX", "SOA", "NS", "AAAA", "SRV"])
async def test_signatures_come_along_when_they_are_wanted(above, server, kind):
    data = {"A": "192.0.2.1", "MX": "10 m.example.com.", "SOA": "a.example.com. b.example.com. 1 2 3 4 5"}
    data |= {"NS": "ns.example.com.", "AAAA": "2001:db8::1", "SRV": "1 2 3 srv.example.com."}
    signature = f"{kind} 8 2 60 20300101000000 20200101000000 1 example.com. AQID"
    above.add(f"example.com. 60 {kind} {data[kind]}", f"example.com. 60 RRSIG {signature}")
    plain = await server.ask("example.com.", kind)
    assert len(plain.answer) == 1
    read = await server.ask("example.com.", kind, want_dnssec=True)
    assert lines(read.answer) == sorted(
        [f"example.com. 60 {kind} {data[kind]}", f"example.com. 60 RRSIG {signature}"]
    )
    assert read.ednsflags & dns.flags.DO


@pytest.mark.parametrize("kind", ["HTTPS", "AAAA", "A"])
async def test_an_absence_comes_with_the_soa_and_is_kept_as_long_as_it_says(above, server, kind):
    above.add("example.com. 60 MX 10 mail.example.com.")
    above.soa = "example.com. 50 SOA ns.example.com. host.example.com. 1 2 3 4 30"
    for _ in range(2):
        read = await server.ask("example.com.", kind)
        assert (read.rcode(), read.answer) == (dns.rcode.NOERROR, [])
        assert lines(read.authority) == [above.soa]
        read = await server.ask("nobody.example.com.", kind)
        assert (read.rcode(), lines(read.authority)) == (dns.rcode.NXDOMAIN, [above.soa])
    assert len(above.outside()) == 2


async def test_an_external_name_leads_to_records_of_any_type(above, server):
    above.add('www.example.com. 30 HTTPS 1 . alpn="h2"')
    read = await server.ask(f"ext.{SVC}", "HTTPS")
    assert [str(rrset) for rrset in read.answer] == [
        f"ext.{SVC} 5 IN CNAME www.Example.com.",
        'www.example.com. 30 IN HTTPS 1 . alpn="h2"',
    ]


async def test_a_long_answer_of_a_new_type_is_fetched_by_tcp(above, server):
    above.add("example.com. 60 SSHFP 1 1 2bb183af5f22588179a53b0a98631fad1a292118")
    above.truncate = True
    await above.serve_tcp()
    assert len((await server.ask("example.com.", "SSHFP")).answer) == 1


async def test_the_next_server_is_asked_for_new_types_too(above):
    above.add('example.com. 60 HTTPS 1 . alpn="h2"')
    async with upstream() as refusing:
        refusing.rcodes["example.com."] = dns.rcode.REFUSED
        servers = [("127.0.0.1", 9), refusing.address, above.address]
        async with running(WEB, upstream=servers) as server:
            assert len((await server.ask("example.com.", "HTTPS")).answer) == 1


async def test_no_server_that_knows_new_types_is_servfail(monkeypatch):
    monkeypatch.setattr("uproxy.dns.servers.ATTEMPT_TIMEOUT_S", 0.05)
    async with upstream() as silent:
        silent.silent.add("example.com.")
        async with running(WEB, upstream=[silent.address]) as server:
            assert (await server.ask("example.com.", "HTTPS")).rcode() == dns.rcode.SERVFAIL
            assert len(silent.outside()) == 2


async def test_a_long_text_is_passed_on(above, server):
    above.add(f'example.com. 60 TXT "{"a" * 255}" "{"b" * 45}"')
    read = await server.ask("example.com.", "TXT", use_edns=0, payload=1232, pad=128)
    assert b"".join(read.answer[0][0].strings) == b"a" * 255 + b"b" * 45


async def test_aliases_come_first_and_case_is_kept(above, server):
    above.add("www.example.com. 30 CNAME a.example.net.", "a.example.net. 20 A 192.0.2.1")
    asked = dns.message.make_query("WWW.example.COM.", "A")
    packet, _ = await exchange(asked.to_wire(), server.address)
    read = dns.message.from_wire(packet)
    assert [str(rrset) for rrset in read.answer] == [
        "WWW.example.COM. 30 IN CNAME a.example.net.",
        "a.example.net. 20 IN A 192.0.2.1",
    ]


async def test_an_external_name_brings_what_it_resolves_to(above, server):
    above.add("www.example.com. 30 A 192.0.2.1")
    read = await server.ask(f"ext.{SVC}")
    assert [str(rrset) for rrset in read.answer] == [
        f"ext.{SVC} 5 IN CNAME www.Example.com.",
        "www.example.com. 30 IN A 192.0.2.1",
    ]
    absent = await server.ask(f"nothing.{SVC}")
    assert (absent.rcode(), len(absent.answer)) == (dns.rcode.NXDOMAIN, 1)
    assert above.outside() == [("www.example.com.", "A"), ("nothing.example.", "A")]


@pytest.mark.parametrize(
    ("upstream_says", "rcode"),
    [
        (dns.rcode.NXDOMAIN, dns.rcode.NXDOMAIN),
        (dns.rcode.NOERROR, dns.rcode.NOERROR),
        (dns.rcode.SERVFAIL, dns.rcode.SERVFAIL),
        (dns.rcode.REFUSED, dns.rcode.SERVFAIL),
    ],
)
async def test_what_upstream_has_not(above, server, upstream_says, rcode):
    above.rcodes["example.com."] = upstream_says
    read = await server.ask("example.com.")
    assert (read.rcode(), read.answer) == (rcode, [])


async def test_answers_and_absences_are_kept(above, server):
    above.add("example.com. 60 A 192.0.2.1")
    for _ in range(3):
        await server.ask("example.com.")
        await server.ask("Nothing.example.")
    assert above.outside() == [("example.com.", "A"), ("nothing.example.", "A")]
    assert server.dns.stats.cache_hits == {"success": 2, "denial": 2}
    assert server.dns.stats.cache_misses == 2


async def test_the_same_question_is_asked_once(above, server):
    above.add("example.com. 60 A 192.0.2.1")
    above.silent.add("example.com.")
    asked = [asyncio.ensure_future(server.ask("example.com.")) for _ in range(20)]
    await above.wait_for(1)
    await until(lambda: server.dns.stats.cache_misses == 20)
    above.release()
    for read in await asyncio.gather(*asked):
        assert len(read.answer) == 1
    assert above.outside() == [("example.com.", "A")]


async def test_a_slow_upstream_delays_no_cluster_name(above, server, monkeypatch):
    monkeypatch.setattr("uproxy.dns.servers.ATTEMPT_TIMEOUT_S", PATIENCE_S)
    names = [f"slow{number}.example." for number in range(200)]
    above.silent.update(names)
    asked = [asyncio.ensure_future(server.ask(name)) for name in names]
    await above.wait_for(200)
    for _ in range(50):
        assert (await server.ask(f"web.{SVC}")).rcode() == dns.rcode.NOERROR
    assert not any(one.done() for one in asked)
    above.release()
    assert {read.rcode() for read in await asyncio.gather(*asked)} == {dns.rcode.NXDOMAIN}


async def test_the_next_server_is_asked_when_one_is_dead(above):
    above.add("example.com. 60 A 192.0.2.1")
    async with running(WEB, upstream=[("127.0.0.1", 9), above.address]) as server:
        assert len((await server.ask("example.com.")).answer) == 1


async def test_a_server_that_does_not_reply_is_the_last_to_be_asked_from_then_on(above, monkeypatch):
    monkeypatch.setattr("uproxy.dns.servers.ATTEMPT_TIMEOUT_S", 0.1)
    async with upstream() as dead:
        names = [f"n{number}.example." for number in range(10)]
        dead.silent.update(names)
        async with running(WEB, upstream=[dead.address, above.address]) as server:
            for name, kind in zip(names, ["A", "HTTPS", "TXT", "SRV", "MX"] * 2, strict=True):
                assert (await server.ask(name, kind)).rcode() == dns.rcode.NXDOMAIN
            assert len(dead.outside()) == 1
            assert len(above.outside()) == 10


async def test_a_server_that_was_away_is_tried_again_by_one_question(above, monkeypatch):
    monkeypatch.setattr("uproxy.dns.servers.ATTEMPT_TIMEOUT_S", 0.1)
    monkeypatch.setattr("uproxy.dns.servers.AWAY_S", 0.3)
    async with upstream() as first:
        first.silent.add("lost.example.")
        async with running(WEB, upstream=[first.address, above.address]) as server:
            await server.ask("lost.example.")
            numbers = iter(range(10_000))

            async def is_asked_again() -> bool:
                await server.ask(f"n{next(numbers)}.example.")
                return len(first.outside()) > 3

            async with asyncio.timeout(PATIENCE_S):
                while not await is_asked_again():
                    pass


async def test_a_slow_answer_is_waited_for_however_quick_the_others_were(above, monkeypatch):
    """c-ares shortens its time by what it has seen."""
    monkeypatch.setattr("uproxy.dns.servers.ATTEMPT_TIMEOUT_S", 0.4)
    async with running(WEB, upstream=[above.address]) as server:
        for number in range(50):
            await server.ask(f"quick{number}.example.")
        above.silent.add("slow.example.")
        began_s = asyncio.get_running_loop().time()
        asked = asyncio.ensure_future(server.ask("slow.example."))
        await above.wait_for(52)
        assert asyncio.get_running_loop().time() - began_s > 0.4
        above.release()
        assert (await asked).rcode() == dns.rcode.NXDOMAIN


async def test_a_server_that_knows_no_edns_is_asked_without(above, server):
    above.add("example.com. 60 A 192.0.2.1")
    above.knows_edns = False
    assert len((await server.ask("example.com.")).answer) == 1
    assert (await server.ask("nobody.example.")).rcode() == dns.rcode.NXDOMAIN
    assert len(above.outside()) <= 3, "it is remembered"


async def test_who_serves_a_name_that_there_is_makes_no_answer_longer(above, server):
    above.add("example.com. 60 A 192.0.2.1")
    above.extra = "example.com. 60 NS ns.example.com."
    assert not (await server.ask("example.com.")).authority


async def test_without_any_that_works_it_is_servfail():
    async with running(WEB, upstream=[("127.0.0.1", 9)]) as server:
        read = await server.ask("example.com.")
        assert read.rcode() == dns.rcode.SERVFAIL
        assert server.dns.stats.upstream_failures >= 1


async def test_a_truncated_answer_is_fetched_by_tcp(above, server):
    above.add("example.com. 60 A 192.0.2.1")
    above.truncate = True
    await above.serve_tcp()
    assert len((await server.ask("example.com.")).answer) == 1


async def test_too_many_questions_under_way_are_refused_at_once(above, monkeypatch):
    monkeypatch.setattr("uproxy.dns.upstream.MOST_UNDER_WAY", 5)
    names = [f"slow{number}.example." for number in range(10)]
    above.silent.update(names)
    async with running(WEB, upstream=[above.address]) as server:
        await server.ask("first.example.")
        await until(lambda: not server.dns._upstream._under_way)  # the probe's answer came too
        asked = [asyncio.ensure_future(server.ask(name)) for name in names[:5]]
        await above.wait_for(6)
        assert (await server.ask(names[6])).rcode() == dns.rcode.SERVFAIL
        assert server.dns.stats.upstream_refused >= 1
        above.release()
        await asyncio.gather(*asked)


async def test_too_many_queries_that_wait_are_refused_at_once(above, monkeypatch):
    monkeypatch.setattr("uproxy.dns.front.MOST_DEFERRED", 1)
    above.silent.add("slow.example.")
    async with running(WEB, upstream=[above.address]) as server:
        asked = asyncio.ensure_future(server.ask("slow.example."))
        await above.wait_for(1)
        packet, _ = await exchange(dns.message.make_query("slow.example.", "A").to_wire(), server.address)
        assert dns.message.from_wire(packet).rcode() == dns.rcode.SERVFAIL
        above.release()
        await asked


async def test_the_end_does_not_wait_for_upstream(above):
    above.silent.add("slow.example.")
    async with running(WEB, upstream=[above.address]) as server:
        asked = asyncio.ensure_future(server.ask("slow.example."))
        await above.wait_for(1)
    asked.cancel()


@pytest.mark.parametrize("way", ["udp", "tcp"])
async def test_queries_that_wait_have_their_answers_before_the_end(above, way):
    above.silent.add("slow.example.")
    async with running(WEB, upstream=[above.address]) as server:
        asked = asyncio.ensure_future(
            by_tcp(server, "slow.example.") if way == "tcp" else server.ask("slow.example.")
        )
        await above.wait_for(1)
        draining = asyncio.ensure_future(server.dns.drain(PATIENCE_S))
        await asyncio.sleep(0)
        assert (await server.ask("later.example.")).rcode() == dns.rcode.SERVFAIL
        assert (await server.ask(f"web.{SVC}")).rcode() == dns.rcode.NOERROR
        assert not draining.done()
        above.release()
        await draining
        assert (await asked).rcode() == dns.rcode.NXDOMAIN


async def by_tcp(server, name: str) -> dns.message.Message:
    reader, writer = await asyncio.open_connection(*server.address)
    packet = dns.message.make_query(name, "A").to_wire()
    writer.write(len(packet).to_bytes(2) + packet)
    answer = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
    writer.close()
    return dns.message.from_wire(answer)


async def test_what_upstream_never_answers_is_not_waited_for_longer_than_allowed(above):
    above.silent.add("slow.example.")
    async with running(WEB, upstream=[above.address]) as server:
        asked = asyncio.ensure_future(server.ask("slow.example."))
        await above.wait_for(1)
        await server.dns.drain(0.05)
        assert server.dns.waiting == 1
        asked.cancel()


# ---- circles ----


async def test_itself_is_left_out_as_an_upstream(above):
    async with running(WEB) as first:
        address = first.address
    async with running(WEB, listen=(address,), upstream=[address]) as server:
        assert (await server.ask("example.com.")).rcode() == dns.rcode.REFUSED
        assert not server.dns.responder.recursion


async def test_two_that_lead_to_each_other_find_out():
    async with running(WEB) as placeholder:
        address = placeholder.address
    async with (
        running(WEB, upstream=[address]) as one,
        running(WEB, listen=(address,), upstream=[one.address]) as other,
    ):
        read = await one.ask("example.com.")
        assert read.rcode() in (dns.rcode.SERVFAIL, dns.rcode.REFUSED)
        await until(lambda: one.dns._guard.found or other.dns._guard.found)
        assert (await one.ask(f"web.{SVC}")).rcode() == dns.rcode.NOERROR


# ---- search paths ----


async def test_an_outside_name_is_found_at_the_first_query(above, server):
    above.add("example.com. 60 A 192.0.2.1")
    read = await server.ask(f"Example.com.{SVC}")
    assert read.rcode() == dns.rcode.NOERROR
    assert [str(rrset) for rrset in read.answer] == [
        f"Example.com.{SVC} 60 IN CNAME example.com.",
        "example.com. 60 IN A 192.0.2.1",
    ]
    assert above.outside() == [("example.com.", "A")]
    assert server.dns.stats.autopath_hits == 1


async def test_a_name_of_another_namespace_is_found_on_the_way(above, server):
    await server.upsert(service("other/api", "http:80", ips="172.30.0.9"))
    read = await server.ask(f"api.other.{SVC}")
    assert lines(read.answer) == sorted(
        [
            f"api.other.{SVC} 5 CNAME api.other.svc.cluster.local.",
            "api.other.svc.cluster.local. 5 A 172.30.0.9",
        ]
    )
    assert above.outside() == []


async def test_a_name_that_is_nowhere_is_absent_where_it_was_asked_for(above, server):
    read = await server.ask(f"nothing.example.{SVC}")
    assert (read.rcode(), read.answer) == (dns.rcode.NXDOMAIN, [])
    assert str(read.authority[0].name) == "cluster.local."


async def test_a_failing_upstream_does_not_make_a_cluster_name_fail(above, server):
    above.rcodes["broken.example."] = dns.rcode.SERVFAIL
    assert (await server.ask(f"broken.example.{SVC}")).rcode() == dns.rcode.NXDOMAIN


async def test_a_failure_on_the_search_path_is_not_passed_over(above, server):
    """The next name could be another's: a resolver would stop there too."""
    server.dns.responder.lead_upstream(server.dns._guard, (from_text("corp.example"),))
    above.add("host. 60 A 192.0.2.1")
    above.rcodes["host.corp.example."] = dns.rcode.SERVFAIL
    assert (await server.ask(f"host.{SVC}")).rcode() == dns.rcode.NXDOMAIN


async def test_names_of_any_octets_are_answered(above, server):
    names = [
        b"\4\0\xff. ",
        b"\x3f" + b"\\" * 63,
        b"\2xn\2--",
        b"\1*",
        b"\1@",
        b"\4\xc3\xa4\xc3\xb6",
        b"\5onion",
    ]
    names += [bytes((63,)) + bytes(range(start, start + 63)) for start in (0, 60, 120, 192)]
    names += [b"\x3f" + b"\xff" * 63 + b"\x3f" + b"\0" * 63 + b"\x3f" + b"." * 63 + b"\x3d" + b"\\" * 61]
    for number, labels in enumerate(names):
        header = number.to_bytes(2) + b"\1\0\0\1\0\0\0\0\0\0"
        answer, _ = await exchange(header + labels + b"\0\0\1\0\1", server.address)
        assert answer[:2] == number.to_bytes(2)
        assert answer[3] & 0xF in (dns.rcode.NXDOMAIN, dns.rcode.SERVFAIL), labels
    await until(lambda: not server.dns._upstream._under_way)
