"""Lists and watches while nothing goes wrong."""

import asyncio
import itertools
import logging

import pytest

from tests.cluster import objects
from uproxy.model.endpoint import EndpointSlice
from uproxy.model.events import Delete, Synced, Upsert
from uproxy.model.node import Node
from uproxy.model.service import Service

PROXY_NAME = "service.kubernetes.io/service-proxy-name"
HEADLESS = "service.kubernetes.io/headless"


def queries(server, path):
    return [request.query for request in server.requests if request.path.endswith(path)]


async def test_everything_first_and_then_synced_once(server, follow):
    server.storage.put(objects.service())
    server.storage.put(objects.endpoint_slice("web-1", "10.0.0.1"))
    server.storage.put(objects.node())
    follower = follow()
    await follower.until(lambda: follower.synced)
    assert set(follower.of(Service)) == {"default/web"}
    assert set(follower.of(EndpointSlice)) == {"default/web-1"}
    assert follower.of(Node)["node-1"].zone == "zone-a"
    assert isinstance(follower.events[-1], Synced)
    assert len(follower.events) == 4


async def test_an_empty_cluster_without_our_node_is_complete(server, follow):
    server.storage.put(objects.node("node-2"))
    follower = follow()
    await follower.until(lambda: follower.synced)
    assert follower.events == [Synced("kubernetes")]


async def test_not_synced_while_one_resource_is_missing(server, follow):
    server.forbidden = {"nodes"}
    follower = follow()
    await follower.until(lambda: follower.status("nodes").denied >= 3)
    await follower.until(lambda: server.watching == 2)
    assert not follower.synced
    server.forbidden = set()
    await follower.until(lambda: follower.synced)


async def test_changes_come_one_by_one(server, follow):
    follower = follow()
    await follower.until(lambda: follower.synced)
    server.storage.put(objects.service())
    await follower.until(lambda: len(follower.events) == 2)
    server.storage.put(objects.service(ip="10.96.0.11"))
    await follower.until(lambda: len(follower.events) == 3)
    server.storage.delete(objects.service())
    await follower.until(lambda: len(follower.events) == 4)
    assert [type(event) for event in follower.events[1:]] == [Upsert, Upsert, Delete]


async def test_what_changes_nothing_for_a_proxy_is_not_told(server, follow):
    server.storage.put(objects.service())
    follower = follow()
    await follower.until(lambda: follower.synced)
    server.storage.put(objects.labelled(objects.service(), team="a"))
    server.storage.put(objects.service("last"))
    await follower.until(lambda: "default/last" in follower.of(Service))
    assert len(follower.events) == 3


async def test_selectors_of_the_default_proxy(server, follow):
    follower = follow()
    await follower.until(lambda: follower.synced)
    (services,), (slices,), (nodes,) = (
        queries(server, path) for path in ("/services", "/endpointslices", "/nodes")
    )
    assert services["labelSelector"] == f"!{PROXY_NAME}"
    assert services["fieldSelector"] == "spec.clusterIP!=None"
    assert slices["labelSelector"] == f"!{PROXY_NAME},!{HEADLESS}"
    assert "fieldSelector" not in slices
    assert nodes["fieldSelector"] == "metadata.name=node-1"
    assert "labelSelector" not in nodes


async def test_a_proxy_with_a_name_serves_its_own_services_only(server, follow):
    ours = objects.labelled(objects.service("ours"), service_kubernetes_io="x")
    ours["metadata"]["labels"] = {PROXY_NAME: "mine"}
    server.storage.put(ours)
    server.storage.put(objects.service("theirs"))
    follower = follow(proxy_name="mine")
    await follower.until(lambda: follower.synced)
    assert set(follower.of(Service)) == {"default/ours"}
    assert follower.of(Service)["default/ours"].captured


async def test_headless_services_when_they_are_wanted(server, follow):
    server.storage.put(objects.service("db", "None", clusterIPs=["None"]))
    slice_ = objects.endpoint_slice("db-1", "10.0.0.1", service="db")
    slice_["metadata"]["labels"][HEADLESS] = ""
    server.storage.put(slice_)
    without, with_ = follow(), follow(headless=True)
    await without.until(lambda: without.synced)
    await with_.until(lambda: with_.synced)
    assert not without.objects
    assert with_.of(Service)["default/db"].headless
    assert set(with_.of(EndpointSlice)) == {"default/db-1"}


async def test_a_list_is_streamed_and_the_watch_goes_on_in_the_same_answer(server, follow):
    follower = follow()
    await follower.until(lambda: follower.synced)
    server.storage.put(objects.service())
    await follower.until(lambda: follower.of(Service))
    (query,) = queries(server, "/services")
    assert query["sendInitialEvents"] == "true"
    assert 300 <= int(query["timeoutSeconds"]) <= 600


@pytest.mark.parametrize("watch_list", ["refuses", "ignores"])
async def test_a_server_that_does_not_stream_lists_is_asked_for_pages(server, follow, watch_list):
    server.watch_list = watch_list
    server.storage.put(objects.service())
    follower = follow()
    await follower.until(lambda: follower.synced)
    server.storage.put(objects.service("b"))
    await follower.until(lambda: len(follower.of(Service)) == 2)
    streamed, listed, watched = queries(server, "/services")
    assert "sendInitialEvents" in streamed
    assert (listed["resourceVersion"], listed["limit"], listed.get("watch")) == ("0", "500", None)
    assert (watched["watch"], watched["resourceVersion"]) == ("true", "1001")
    assert not follower.waits_s


async def test_a_server_that_streams_once_is_not_asked_again_for_what_it_refused(server, follow):
    server.watch_list = "refuses"
    follower = follow()
    await follower.until(lambda: follower.synced and server.watching == 3)
    server.storage.compact()
    server.storage.put(objects.service("x"))
    server.storage.compact()
    await follower.until(lambda: follower.of(Service))
    server.drop_all()
    await follower.until(lambda: len(queries(server, "/services")) >= 4)
    assert sum("sendInitialEvents" in query for query in queries(server, "/services")) == 1


async def test_a_long_list_comes_in_pages(server, follow):
    server.watch_list = "refuses"
    follower = follow()
    await follower.until(lambda: follower.synced and server.watching == 3)
    server.drop_all()
    for number in range(1200):
        server.storage.put(objects.service(f"s{number}", f"10.96.{number // 250}.{number % 250 + 1}"))
    server.storage.compact()
    await follower.until(lambda: len(follower.of(Service)) == 1200)
    pages = [query for query in queries(server, "/services") if "watch" not in query]
    assert [("continue" in query, query.get("resourceVersion")) for query in pages] == [
        (False, "0"),
        (False, None),
        (True, None),
        (True, None),
    ]
    assert len(follower.events) == 1 + 1200


async def test_a_watch_that_ends_in_good_order_goes_on_at_once(server, follow):
    follower = follow()
    await follower.until(lambda: follower.synced and server.watching == 3)
    server.storage.put(objects.service())
    await follower.until(lambda: follower.of(Service))
    server.end_watches()
    server.storage.put(objects.service("b"))
    await follower.until(lambda: len(follower.of(Service)) == 2)
    await follower.until(lambda: server.watching == 3 and len(queries(server, "/services")) == 2)
    assert queries(server, "/services")[-1]["resourceVersion"] in ("1001", "1002")
    assert follower.status("services").failures == 0


async def test_a_bookmark_moves_the_place_to_go_on_from(server, follow):
    follower = follow()
    await follower.until(lambda: follower.synced and server.watching == 3)
    server.storage.put(objects.node("node-2"))  # nothing that the watch of Services would tell
    server.bookmark()
    server.end_watches()
    await follower.until(lambda: len(queries(server, "/services")) == 2)
    assert queries(server, "/services")[-1]["resourceVersion"] == "1001"


async def test_what_cannot_be_understood_is_left_out_and_said_once(server, follow, caplog):
    server.storage.put(objects.service("odd", "not an address"))
    server.storage.put(objects.service("odder", ports=[{"port": "eighty"}]))
    server.storage.put(objects.service("good", "10.96.0.12"))
    with caplog.at_level(logging.WARNING, "uproxy.kubernetes"):
        follower = follow()
        await follower.until(lambda: follower.synced)
        server.storage.put(objects.labelled(objects.service("odd", "not an address"), again="1"))
        server.storage.put(objects.service("last"))
        await follower.until(lambda: "default/last" in follower.of(Service))
    assert set(follower.of(Service)) == {"default/good", "default/last"}
    assert follower.status("services").skipped == 2
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "services default/odd is left out",
        "services default/odder is left out",
    ]


async def test_what_was_understood_before_stays_until_it_is_understood_again_or_gone(server, follow):
    server.storage.put(objects.service("a", "10.96.0.1"))
    server.storage.put(objects.service("b", "10.96.0.2"))
    follower = follow()
    await follower.until(lambda: follower.synced)
    for name in "ab":
        server.storage.put(objects.service(name, "no address"))
    await follower.until(lambda: follower.status("services").skipped == 2)
    assert len(follower.of(Service)) == 2
    server.storage.delete(objects.service("a"))
    server.storage.put(objects.service("b", "10.96.0.3"))
    await follower.until(lambda: follower.status("services").skipped == 0)
    assert [str(ip) for ip in follower.of(Service)["default/b"].cluster_ips] == ["10.96.0.3"]
    assert set(follower.of(Service)) == {"default/b"}


async def test_a_slice_that_loses_its_service_is_gone(server, follow):
    slice_ = objects.endpoint_slice("web-1", "10.0.0.1")
    server.storage.put(slice_)
    follower = follow()
    await follower.until(lambda: follower.synced)
    slice_["metadata"]["labels"] = {}
    server.storage.put(slice_)
    await follower.until(lambda: not follower.of(EndpointSlice))


async def test_others_have_their_turn_while_a_list_is_taken(server, follow):
    for number in range(300):
        server.storage.put(objects.endpoint_slice(f"s{number}", "10.0.0.1"))
    clock = itertools.count()
    follower = follow(now=lambda: float(next(clock)))  # all that is done takes a second
    turns_at: list[int] = []

    async def others() -> None:
        while not follower.synced:
            turns_at.append(len(follower.events))
            await asyncio.sleep(0)

    await asyncio.gather(others(), follower.until(lambda: follower.synced))
    assert set(range(1, 300)) <= set(turns_at)
