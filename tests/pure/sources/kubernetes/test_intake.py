"""Lines of a watch and items of a list, good and bad."""

import json

import pytest

from tests.cluster import objects
from uproxy.sources.kubernetes.errors import Dropped, Refused
from uproxy.sources.kubernetes.intake import Intake
from uproxy.sources.kubernetes.known import Known
from uproxy.sources.kubernetes.resources import endpoint_slices, own_node, services
from uproxy.sources.kubernetes.source import like

STATUS = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Expired"}


class Taken:
    def __init__(self, resource=None) -> None:
        self.told: list[str] = []
        self.known = Known(
            lambda made: self.told.append(f"+{made.key}"), lambda made: self.told.append(f"-{made.key}")
        )
        self.intake = Intake(resource or services(None, False), self.known)

    def event(self, kind, thing):
        return self.intake.line(json.dumps({"type": kind, "object": thing}).encode())


@pytest.fixture
def taken():
    return Taken()


def versioned(thing, version="7"):
    return thing | {"metadata": thing["metadata"] | {"resourceVersion": version}}


def test_events(taken):
    kind, metadata = taken.event("ADDED", versioned(objects.service()))
    assert (kind, metadata.resource_version) == ("ADDED", "7")
    taken.event("MODIFIED", objects.service(ip="10.96.0.11"))
    taken.event("DELETED", objects.service(ip="10.96.0.11"))
    assert taken.told == ["+default/web", "+default/web", "-default/web"]
    assert taken.intake.events == 3


def test_a_bookmark_is_no_object(taken):
    bookmark = {"kind": "Service", "metadata": {"resourceVersion": "9"}, "spec": {"sessionAffinity": "None"}}
    kind, metadata = taken.event("BOOKMARK", bookmark)
    assert (kind, metadata.resource_version) == ("BOOKMARK", "9")
    assert (taken.told, taken.intake.events) == ([], 0)


@pytest.mark.parametrize("resource", [services(None, False), endpoint_slices(None, False), own_node("n")])
def test_an_error_is_an_answer_of_the_server(resource):
    status = STATUS | {"message": "too old", "code": 410, "details": {"retryAfterSeconds": 3}}
    with pytest.raises(Refused) as caught:
        Taken(resource).event("ERROR", status)
    assert (caught.value.code, caught.value.retry_after_s) == (410, 3.0)
    assert str(caught.value) == "410 Expired: too old"


@pytest.mark.parametrize("thing", [{"metadata": {}, "code": "x"}, {"metadata": {}, "spec": 5, "code": "x"}])
def test_an_error_that_cannot_be_read_is_a_failure_of_the_server(taken, thing):
    with pytest.raises(Refused) as caught:
        taken.event("ERROR", thing)
    assert caught.value.code == 500


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b'{"type":"ADDED"}', b'{"object":{"metadata":{}}}'])
def test_what_is_no_event_ends_the_connection(taken, line):
    with pytest.raises(Dropped):
        taken.intake.line(line)


def test_a_field_of_an_unknown_type_harms_only_its_object(taken):
    odd = versioned(objects.service(ports="none"))
    kind, metadata = taken.event("ADDED", odd)
    assert (kind, metadata.resource_version) == ("ADDED", "7")
    assert (taken.told, taken.intake.skipped) == ([], 1)
    taken.event("DELETED", odd)
    assert taken.intake.skipped == 0


def test_an_item_that_cannot_be_understood_harms_no_other(taken):
    for thing in (objects.service(ports="none"), objects.service("b", "x"), objects.service("c")):
        taken.intake.item(json.dumps(thing).encode())
    assert (taken.told, taken.intake.skipped, taken.intake.events) == (["+default/c"], 2, 3)


def test_understood_again(taken):
    taken.event("ADDED", objects.service(ip="x"))
    assert taken.intake.skipped == 1
    taken.event("MODIFIED", objects.service())
    assert (taken.intake.skipped, taken.told) == (0, ["+default/web"])


@pytest.mark.parametrize("spec", [{"clusterIPs": ["x"]}, {"ports": "none"}])
def test_what_a_new_list_has_but_nobody_understands_is_there_all_the_same(taken, spec):
    taken.event("ADDED", objects.service())
    taken.known.begin_list()
    taken.intake.item(json.dumps(objects.service(**spec)).encode())
    assert taken.known.end_list() == ()
    assert taken.told == ["+default/web"]


class TestSharing:
    """A new version of a slice is equal to what came, with the old one's endpoints where they are equal."""

    @pytest.mark.parametrize(
        ("before", "now", "shared"),
        [
            (["10.0.0.1", "10.0.0.2"], ["10.0.0.1", "10.0.0.3"], 1),
            (["10.0.0.1"], ["10.0.0.1", "10.0.0.2"], 1),
            (["10.0.0.1", "10.0.0.2"], ["10.0.0.1"], 1),
            ([], ["10.0.0.1"], 0),
            (["10.0.0.1"], [], 0),
        ],
    )
    def test_endpoints_that_stay_where_they_are(self, before, now, shared):
        versions = []
        intake = Intake(endpoint_slices(None, False), Known(versions.append, versions.append, like))
        for version, addresses in (("1", before), ("2", now)):
            thing = versioned(objects.endpoint_slice("web-1", *addresses), version)
            intake.line(json.dumps({"type": "MODIFIED", "object": thing}).encode())
        old, new = versions
        assert [str(endpoint.host) for endpoint in new.endpoints] == now
        assert sum(one is other for one in new.endpoints for other in old.endpoints) == shared
