"""Whatever an API server goes through, what was told of it ends up being what it has."""

import asyncio
import os
import tempfile
from pathlib import Path

import pytest
import uvloop
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.cluster import objects
from tests.cluster.api_server import ApiServer, Refusal, replace
from tests.cluster.certificates import Authority
from tests.cluster.follower import NODE, Follower
from uproxy.model.endpoint import EndpointSlice
from uproxy.model.node import Node
from uproxy.model.service import Service
from uproxy.sources.kubernetes.access import Access

LONG = bool(os.environ.get("UPROXY_TESTS_LONG"))
SILENCE_MAX_S = 0.05
"""After this a frozen connection is given up. A spurious one does no harm: it is one more fault."""
NAMES = ("a", "b", "c", "d")

_FILES = tempfile.TemporaryDirectory(prefix="uproxy-storm-")


@pytest.fixture(scope="module", autouse=True)
def authority():
    asyncio.run(Authority(Path(_FILES.name)).make())
    yield
    _FILES.cleanup()


class Storm(RuleBasedStateMachine):
    """The server, the source and the storm share one loop: nothing happens but while it runs."""

    @initialize(
        watch_list=st.sampled_from(("yes", "refuses", "ignores")),
        before=st.lists(st.sampled_from(NAMES), max_size=4),
        cuts=st.lists(st.integers(0, 3), max_size=3),
        gone_as_status=st.booleans(),
        bookmarks_go_back=st.booleans(),
    )
    def begin(self, watch_list, before, cuts, gone_as_status, bookmarks_go_back):
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        directory = Path(_FILES.name)
        self.server = ApiServer(directory)
        self.server.watch_list = watch_list
        self.server.cuts = cuts
        self.server.gone_as_status = gone_as_status
        self.server.bookmarks_go_back = bookmarks_go_back
        self.token_file = directory / "token"
        for name in before:
            self.put_slice(name, 1)
        self.runner.run(self.server.start())
        kubeconfig = self.server.token_kubeconfig(directory / "kubeconfig", self.token_file)
        self.runner.run(self._start(kubeconfig))

    async def _start(self, kubeconfig):
        self.follower = Follower(Access(str(kubeconfig)), silence_max_s=SILENCE_MAX_S)
        self.follower.start()

    # ---- what people do ----

    @rule(name=st.sampled_from(NAMES), last=st.integers(1, 3))
    def put_service(self, name, last):
        self.server.storage.put(objects.service(name, f"10.96.0.{last}"))

    @rule(name=st.sampled_from(NAMES), last=st.integers(1, 3))
    def put_slice(self, name, last):
        self.server.storage.put(objects.endpoint_slice(name, f"10.0.0.{last}", service=name))

    @rule(name=st.sampled_from(NAMES))
    def put_a_slice_of_another_proxy(self, name):
        theirs = objects.endpoint_slice(name, "10.0.0.9", service=name)
        label = {"service.kubernetes.io__service_proxy_name": "another"}
        self.server.storage.put(objects.labelled(theirs, **label))

    @rule(name=st.sampled_from(NAMES), of=st.sampled_from((objects.service, objects.endpoint_slice)))
    def delete(self, name, of):
        self.server.storage.delete(of(name))

    @rule(zone=st.sampled_from(("zone-a", "zone-b")))
    def put_node(self, zone):
        self.server.storage.put(objects.node(NODE, zone=zone))
        self.server.storage.put(objects.node("node-2", zone=zone))

    @rule()
    def delete_node(self):
        self.server.storage.delete(objects.node(NODE))

    # ---- what machines do ----

    @rule(turns=st.integers(1, 40))
    def let_it_work(self, turns):
        self.runner.run(_turns(turns))

    @rule()
    def catch_up(self):
        replace(self.token_file, next(iter(self.server.tokens)))
        self.runner.run(self.follower.until(self.in_line, "everything in line"))

    @rule()
    def drop(self):
        self.server.drop_all()

    @rule(after=st.lists(st.integers(0, 3), max_size=3))
    def drop_and_cut_those_who_come_back(self, after):
        self.server.cuts = after
        self.server.drop_all()

    @rule(after=st.lists(st.integers(0, 3), max_size=3))
    def cut_lists(self, after):
        self.server.cuts = after
        self.server.storage.compact()
        self.server.storage.put(objects.service("b", "10.96.0.8"))
        self.server.storage.compact()
        self.server.drop_all()

    @rule()
    def freeze(self):
        self.server.freeze_all()

    @rule()
    def end_watches(self):
        self.server.end_watches()

    @rule()
    def bookmark(self):
        self.server.bookmark()

    @rule()
    def compact(self):
        self.server.storage.compact()

    @rule()
    def drop_and_compact(self):
        self.server.drop_all()
        self.server.storage.put(objects.service("a", "10.96.0.7"))
        self.server.storage.compact()

    @rule(count=st.integers(1, 4), code=st.sampled_from((429, 500, 503, 401, 403)))
    def refuse(self, count, code):
        self.server.refusals += [Refusal(code, "Ordered", "by a test", int(code == 429))] * count

    @rule()
    def rotate_token(self):
        token = f"{next(iter(self.server.tokens))}+"
        self.server.tokens = {token}
        replace(self.token_file, token)

    @rule()
    def revoke_token_before_the_file_changes(self):
        self.server.tokens = {f"{next(iter(self.server.tokens))}-"}

    @precondition(lambda self: True)
    @rule(difference=st.integers(-900, 900), loses=st.sampled_from((None, *NAMES)))
    def restart(self, difference, loses):
        """As after a restore of the database: lower or higher versions, and something is missing."""
        self.runner.run(self.server.stop())
        storage = self.server.storage
        storage.restart(max(100, storage.version + difference))
        for thing in (objects.service(loses), objects.endpoint_slice(loses)) if loses else ():
            storage.delete(thing)
        self.runner.run(self.server.start())

    # ---- the end ----

    def in_line(self):
        storage, follower = self.server.storage, self.follower
        slices = {
            f"default/{thing['metadata']['name']}": thing["endpoints"][0]["addresses"]
            for thing in storage.of("endpointslices")
            if "service.kubernetes.io/service-proxy-name" not in thing["metadata"]["labels"]
        }
        services = {
            f"default/{thing['metadata']['name']}": thing["spec"]["clusterIPs"]
            for thing in storage.of("services")
        }
        nodes = {
            thing["metadata"]["name"]: thing["metadata"]["labels"]["topology.kubernetes.io/zone"]
            for thing in storage.of("nodes")
            if thing["metadata"]["name"] == NODE
        }
        return (
            follower.synced == 1
            and slices
            == {n: [str(e.host) for e in s.endpoints] for n, s in follower.of(EndpointSlice).items()}
            and services == {n: [str(ip) for ip in s.cluster_ips] for n, s in follower.of(Service).items()}
            and nodes == {name: node.zone for name, node in follower.of(Node).items()}
        )

    def teardown(self):
        if not hasattr(self, "follower"):
            return
        try:
            self.catch_up()
        finally:
            self.runner.run(self.follower.stop())
            self.runner.run(self.server.stop())
            self.runner.close()


async def _turns(count):
    for _ in range(count):
        await asyncio.sleep(0)


SETTINGS = settings(
    max_examples=200 if LONG else 40,
    stateful_step_count=50 if LONG else 30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    # A failure is a wait that ends in vain; to shrink it would take hours.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)


def storm():
    """A function, because hypothesis reads the source of what it is given, and for a class parses the file:
    there CPython 3.11 fails with SystemError when a traceback is written meanwhile (seen once)."""
    return Storm()


def test_storm():
    run_state_machine_as_test(storm, settings=SETTINGS)
