"""Host names against a real DNS server on loopback, through the real c-ares."""

import aiodns
import pytest
import pytest_asyncio

from tests.loop.sources import nameserver
from tests.loop.sources.nameserver import SERVFAIL, Nameserver
from tests.loop.sources.observer import Observer
from uproxy.sources.resolve import Resolver


@pytest_asyncio.fixture
async def server():
    made = await nameserver.start()
    yield made
    made.close()


@pytest.fixture
def seen() -> Observer:
    return Observer()


@pytest_asyncio.fixture
async def resolver(server: Nameserver, seen: Observer):
    made = Resolver(
        seen.emit,
        lambda: aiodns.DNSResolver(
            nameservers=[server.address], timeout=0.2, tries=1, domains=["svc.test"], ndots=1
        ),
    )
    yield made
    await made.close()


async def test_all_addresses_of_both_families_are_used(server, resolver, seen):
    server.records["db.test"] = ["10.0.0.2", "fd00::1", "10.0.0.1"]
    resolver.want(frozenset({"db.test."}))

    await seen.until(lambda: seen.addresses.get("db.test.") == ["10.0.0.1", "10.0.0.2", "fd00::1"])


async def test_a_name_is_looked_up_again_when_its_ttl_ends(server, resolver, seen):
    server.records["db.test"] = ["10.0.0.1"]
    resolver.want(frozenset({"db.test."}))
    await seen.until(lambda: seen.addresses.get("db.test.") == ["10.0.0.1"])

    server.records["db.test"] = ["10.0.0.9"]

    await seen.until(lambda: seen.addresses["db.test."] == ["10.0.0.9"])
    assert len(seen.events) == 2


async def test_the_same_answer_again_is_no_event(server, resolver, seen):
    server.records["db.test"] = ["10.0.0.1", "10.0.0.2"]
    resolver.want(frozenset({"db.test."}))
    await seen.until(lambda: "db.test." in seen.addresses)
    server.records["db.test"].reverse()
    before = resolver.lookups["db.test."]

    await seen.until(lambda: resolver.lookups["db.test."] > before + 1)  # the last but one has its reply
    assert len(seen.events) == 1


async def test_the_last_good_answer_stands_while_lookups_fail(server, resolver, seen):
    server.records["db.test"] = ["10.0.0.1"]
    resolver.want(frozenset({"db.test."}))
    await seen.until(lambda: "db.test." in seen.addresses)

    server.errors["db.test"] = SERVFAIL
    await seen.until(lambda: resolver.failures["db.test."] > 0)
    assert len(seen.events) == 1

    del server.errors["db.test"]
    server.records["db.test"] = ["10.0.0.2"]
    await seen.until(lambda: seen.addresses["db.test."] == ["10.0.0.2"])
    assert len(seen.events) == 2


async def test_a_name_that_nobody_answers_for_delays_no_other(server, seen):
    server.silent.add("dead.test")
    server.records["web.test"] = ["10.0.0.1"]
    resolver = Resolver(
        seen.emit, lambda: aiodns.DNSResolver(nameservers=[server.address], timeout=60, tries=1)
    )
    resolver.want(frozenset({"dead.test.", "web.test."}))

    await seen.until(lambda: "web.test." in seen.addresses)
    await resolver.close()


async def test_names_of_flags_are_tried_in_the_search_domains(server, resolver, seen):
    server.records["web.svc.test"] = ["10.0.0.1"]
    resolver.want(frozenset({"web"}))

    await seen.until(lambda: seen.addresses.get("web") == ["10.0.0.1"])


async def test_names_that_end_in_a_dot_are_not(server, resolver, seen):
    server.records |= {"web.svc.test": ["10.0.0.1"], "end.test": ["10.0.0.2"]}
    resolver.want(frozenset({"web.", "end.test."}))

    await seen.until(lambda: resolver.failures["web."] > 0 and "end.test." in seen.addresses)
    assert "web.svc.test" not in server.asked


async def test_localhost_needs_no_server(server, resolver, seen):
    resolver.want(frozenset({"localhost"}))

    await seen.until(lambda: "127.0.0.1" in seen.addresses.get("localhost", []))
    assert not server.asked


async def test_a_name_that_is_no_longer_wanted_is_forgotten(server, resolver, seen):
    server.records |= {"db.test": ["10.0.0.1"], "other.test": ["10.0.0.3"]}
    resolver.want(frozenset({"db.test."}))
    resolver.want(frozenset({"other.test."}))  # before the first reply

    await seen.until(lambda: "other.test." in seen.addresses)
    assert set(resolver.lookups) == {"other.test."}
    assert "db.test." not in seen.addresses


async def test_a_name_that_is_wanted_again_is_answered_again(server, resolver, seen):
    server.records["db.test"] = ["10.0.0.1"]
    for _ in range(2):
        seen.addresses.clear()
        resolver.want(frozenset({"db.test."}))
        await seen.until(lambda: "db.test." in seen.addresses)
        resolver.want(frozenset())


async def test_a_resolver_without_names_opens_nothing():
    def refuse():
        pytest.fail("opened a DNS channel")

    resolver = Resolver(lambda event: None, refuse)
    resolver.want(frozenset())
    await resolver.close()
