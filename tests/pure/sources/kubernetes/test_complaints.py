import logging

import pytest

from uproxy.sources.kubernetes.complaints import AGAIN_S, Complaints


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "uproxy.kubernetes")
    return lambda: [record.getMessage() for record in caplog.records]


def test_one_line_for_all_who_see_the_same(lines):
    complaints = Complaints(lambda: 0.0)
    for resource in ("services", "nodes", "services"):
        complaints.trouble(resource, "away", known=True)
    assert lines() == ["API server: away; going on with what is known"]


def test_before_anything_is_known_that_is_said(lines):
    Complaints(lambda: 0.0).trouble("services", "away", known=False)
    assert lines() == ["API server: away; trying again, nothing is served until then"]


def test_another_line_when_it_changes(lines):
    complaints = Complaints(lambda: 0.0)
    complaints.trouble("services", "away", known=True)
    complaints.trouble("services", "403", known=True)
    assert len(lines()) == 2


def test_well_again_when_all_are(lines):
    complaints = Complaints(lambda: 0.0)
    complaints.trouble("services", "away", known=True)
    complaints.trouble("nodes", "away", known=True)
    complaints.well("services")
    assert len(lines()) == 1
    complaints.well("nodes")
    complaints.well("nodes")
    assert lines()[1:] == ["API server: answers again"]


def test_nothing_is_said_while_all_is_well(lines):
    Complaints(lambda: 0.0).well("services")
    assert lines() == []


def test_what_goes_on_is_said_once_an_hour_whatever_its_words(lines):
    now_s = [0.0]
    complaints = Complaints(lambda: now_s[0])
    while now_s[0] < 2 * AGAIN_S:
        for text in ("no connection in time", "refused"):
            complaints.trouble("services", text, known=True)
            now_s[0] += 5
    assert len(lines()) == 4
    assert lines()[2].startswith("API server: still: ")
    complaints.well("services")
    complaints.trouble("services", "refused", known=True)
    assert lines()[4:] == ["API server: answers again", "API server: refused; going on with what is known"]
