"""What an API server, and the way to it, can do to those who watch."""

import logging

import pytest

from tests.cluster import objects
from tests.cluster.api_server import Refusal
from tests.cluster.test_following import queries
from uproxy.model.events import Delete
from uproxy.model.service import Service


async def ready(follower, server):
    await follower.until(lambda: follower.synced and server.watching == 3)
    return follower


def names(follower):
    return {key.removeprefix("default/") for key in follower.of(Service)}


async def test_a_dropped_watch_goes_on_where_it_was(server, follow):
    server.storage.put(objects.service("a"))
    follower = await ready(follow(), server)
    server.drop_all()
    server.storage.put(objects.service("b"))
    await follower.until(lambda: names(follower) == {"a", "b"})
    assert queries(server, "/services")[-1]["resourceVersion"] == "1001"
    assert follower.status("services").lists == 1
    assert follower.waits_s == [pytest.approx(0.8 * 1.5)] * 3


async def test_a_list_that_was_cut_off_is_not_taken_for_a_complete_one(server, follow):
    for name in "abc":
        server.storage.put(objects.service(name))
    server.forbidden = {"endpointslices", "nodes"}
    server.cuts = [2]
    follower = follow()
    follower.may_go_on.clear()
    await follower.until(lambda: follower.status("services").failures == 1)
    assert names(follower) == {"a", "b"}
    assert not follower.status("services").synced
    follower.may_go_on.set()
    await follower.until(lambda: follower.status("services").synced)
    assert names(follower) == {"a", "b", "c"}
    assert [query["resourceVersion"] for query in queries(server, "/services")] == ["", ""]


async def test_a_relist_that_was_cut_off_takes_nothing_away(server, follow):
    for name in "abc":
        server.storage.put(objects.service(name))
    follower = await ready(follow(), server)
    server.storage.put(objects.node("node-2"))
    server.storage.compact()
    server.forbidden = {"endpointslices", "nodes"}
    server.cuts = [5, 1]  # the ERROR event goes through, the list does not
    server.drop_all()
    await follower.until(lambda: follower.status("services").lists == 2)
    assert follower.status("services").failures == 3
    assert not [event for event in follower.events if isinstance(event, Delete)]


@pytest.mark.parametrize("watch_list", ["yes", "refuses"])
@pytest.mark.parametrize("gone_as_status", [True, False])
async def test_too_old_a_version_is_listed_anew_and_only_differences_are_told(
    server, follow, watch_list, gone_as_status
):
    server.watch_list, server.gone_as_status = watch_list, gone_as_status
    for name in ("same", "changed", "gone"):
        server.storage.put(objects.service(name, "10.96.0.1"))
    follower = await ready(follow(), server)
    told = len(follower.events)
    server.drop_all()
    server.storage.put(objects.service("changed", "10.96.0.2"))
    server.storage.delete(objects.service("gone"))
    server.storage.put(objects.service("new", "10.96.0.3"))
    server.storage.compact()
    await follower.until(lambda: names(follower) == {"same", "changed", "new"})
    assert len(follower.events) == told + 3
    assert follower.status("services").lists == 2
    assert follower.synced == 1


async def test_a_relist_does_not_wait_but_a_second_in_a_row_does(server, follow):
    follower = await ready(follow(), server)
    gone = Refusal(410, "Expired", "ordered")
    server.refusals = [gone] * 6  # two for each resource
    server.end_watches()
    await follower.until(lambda: all(status.lists == 2 for status in follower.source.status))
    assert sorted(follower.waits_s) == [pytest.approx(1.6 * 1.5)] * 3


async def test_a_page_that_expires_is_followed_by_a_list_in_one_piece(server, follow):
    server.watch_list = "refuses"
    follower = await ready(follow(), server)
    server.drop_all()
    for number in range(600):
        server.storage.put(objects.service(f"s{number}"))
    server.storage.compact()
    server.pages_expire = True
    await follower.until(lambda: len(follower.of(Service)) == 600)
    pages = [query for query in queries(server, "/services") if "watch" not in query][1:]
    assert [("limit" in query, "continue" in query) for query in pages] == [
        (True, False),
        (True, True),
        (False, False),
    ]
    assert follower.status("services").lists == 2


async def test_a_first_list_that_is_too_old_is_asked_for_anew(server, follow):
    server.watch_list = "refuses"
    refuses_stream = Refusal(422, "Invalid", "ordered")
    server.refusals_of = {"services": [refuses_stream, Refusal(410, "Expired", "ordered")]}
    follower = await ready(follow(), server)
    lists = [query for query in queries(server, "/services") if "watch" not in query]
    assert [query.get("resourceVersion") for query in lists] == ["0", None]
    assert follower.waits_s == []


async def test_retry_after_is_kept_to(server, follow):
    server.refusals = [Refusal(429, "TooManyRequests", "slow down", retry_after_s=7)] * 3
    follower = await ready(follow(), server)
    assert follower.waits_s == [pytest.approx(7 * 1.5)] * 3


async def test_an_absent_server_changes_nothing_and_waits_grow(server, follow, caplog):
    server.storage.put(objects.service("a"))
    follower = await ready(follow(), server)
    told = len(follower.events)
    with caplog.at_level(logging.INFO, "uproxy.kubernetes"):
        await server.stop()
        await follower.until(lambda: follower.status("services").failures >= 9)
        status = follower.status("services")
        assert status.synced
        assert status.disconnected_since_s is not None
        assert "127.0.0.1" in status.last_error
        assert len(follower.events) == told
        assert max(follower.waits_s) == pytest.approx(30 * 1.5)
        server.storage.put(objects.service("b"))
        await server.start()
        await follower.until(lambda: names(follower) == {"a", "b"})
        await follower.until(lambda: all(s.disconnected_since_s is None for s in follower.source.status))
    complaint, relief = (record.getMessage() for record in caplog.records)
    assert complaint.startswith("API server: 127.0.0.1:")
    assert relief == "API server: answers again"


async def test_waits_begin_small_again_after_a_success(server, follow):
    follower = await ready(follow(), server)
    await server.stop()
    await follower.until(lambda: follower.status("services").failures >= 9)
    await server.start()
    await ready(follower, server)
    server.bookmark()
    server.storage.put(objects.service("a"))
    await follower.until(lambda: names(follower) == {"a"})
    follower.waits_s.clear()
    server.drop_all()
    await follower.until(lambda: follower.waits_s)
    assert min(follower.waits_s) == pytest.approx(0.8 * 1.5)


async def test_a_watch_that_ends_at_once_again_and_again_is_not_asked_for_in_a_hurry(server, follow):
    follower = follow(now=lambda: 0.0)
    for number in range(1, 5):
        await follower.until(lambda: server.watching == 3 and len(server.requests) == number * 3)  # noqa: B023
        server.end_watches()
    await follower.until(lambda: len(server.requests) == 15)
    # The first had begun with a list, and was worth its while.
    assert sorted(follower.waits_s) == [
        pytest.approx(wait * 1.5) for wait in (0.8, 1.6, 3.2) for _ in range(3)
    ]


async def test_a_frozen_connection_is_noticed(server, follow):
    follower = await ready(follow(silence_max_s=0.05), server)
    server.freeze_all()
    server.storage.put(objects.service("a"))
    await follower.until(lambda: names(follower) == {"a"})


async def test_silence_again_and_again_ends_with_a_new_list(server, follow):
    """A database that was restored has lower versions: watching from a higher one, nothing is ever heard."""
    server.storage.put(objects.service("a"))
    server.storage.put(objects.service("b"))
    follower = await ready(follow(silence_max_s=0.05), server)
    await server.stop()
    server.storage.restart(500)
    server.storage.delete(objects.service("b"))
    await server.start()
    await follower.until(lambda: names(follower) == {"a"})


async def test_a_bookmark_from_the_past_ends_with_a_new_list(server, follow):
    server.storage.put(objects.service("a"))
    server.bookmarks_go_back = True
    follower = await ready(follow(), server)
    await server.stop()
    server.storage.restart(500)
    server.storage.delete(objects.service("a"))
    await server.start()
    await follower.until(lambda: server.watching == 3)
    server.bookmark()
    await follower.until(lambda: not names(follower))


async def test_the_same_version_may_stand_for_something_else_after_a_restore(server, follow):
    server.storage.put(objects.service("a", "10.96.0.1"))
    follower = await ready(follow(), server)
    await server.stop()
    server.storage.version -= 1
    server.storage.put(objects.service("a", "10.96.0.2"))  # 1001, as before
    server.storage.version += 1000
    server.storage.compact()
    await server.start()
    await follower.until(lambda: str(follower.of(Service)["default/a"].cluster_ips[0]) == "10.96.0.2")


async def test_what_is_forbidden_is_said_once_and_asked_for_again(server, follow, caplog):
    server.forbidden = {"services"}
    server.storage.put(objects.service("a"))
    follower = follow()
    with caplog.at_level(logging.INFO, "uproxy.kubernetes"):
        await follower.until(lambda: follower.status("services").denied >= 5)
        server.forbidden = set()
        await follower.until(lambda: names(follower) == {"a"})
    complaint, relief = (record.getMessage() for record in caplog.records)
    assert "403 Forbidden: services is forbidden" in complaint
    assert relief == "API server: answers again"


async def test_forbidden_later_on_takes_nothing_away(server, follow):
    server.storage.put(objects.service("a"))
    follower = await ready(follow(), server)
    server.forbidden = {"services"}
    server.drop_all()
    await follower.until(lambda: follower.status("services").denied >= 3)
    assert names(follower) == {"a"}


async def test_an_answer_that_is_no_status_is_told_in_its_own_words(server, follow):
    refusal = Refusal(503, "", "")
    refusal.status = "upstream is down"
    server.refusals = [refusal]
    follower = await ready(follow(), server)
    assert '503 Other: "upstream is down"' in {status.last_error for status in follower.source.status}


@pytest.mark.parametrize("code", [400, 500])
async def test_a_place_that_the_server_cannot_go_on_from_is_left_with_a_new_list(server, follow, code):
    follower = await ready(follow(), server)
    server.watch_error = Refusal(code, "InternalError", "unable to decode an object in the cache")
    server.drop_all()
    server.storage.put(objects.service("a"))
    await follower.until(lambda: names(follower) == {"a"})
    assert follower.status("services").lists == 2


async def test_a_server_that_is_overloaded_is_not_asked_for_lists(server, follow):
    follower = await ready(follow(), server)
    server.refusals_of["services"] = [Refusal(503, "ServiceUnavailable", "busy") for _ in range(6)]
    server.drop_all()
    server.storage.put(objects.service("a"))
    await follower.until(lambda: names(follower) == {"a"})
    assert follower.status("services").lists == 1


async def test_a_list_without_a_version_is_not_asked_for_again_in_a_hurry(server, follow):
    server.watch_list = "refuses"
    server.lists_have_versions = False
    server.storage.put(objects.service("a"))
    follower = follow()
    await follower.until(lambda: follower.status("services").failures >= 4)
    assert not follower.synced
    assert "no resourceVersion" in follower.status("services").last_error
    assert follower.waits_s[-1] > follower.waits_s[0]
    server.lists_have_versions = True
    await ready(follower, server)


async def test_lists_may_come_compressed(server, follow):
    server.watch_list = "refuses"
    server.compresses = True
    server.storage.put(objects.service("a"))
    assert names(await ready(follow(), server)) == {"a"}
